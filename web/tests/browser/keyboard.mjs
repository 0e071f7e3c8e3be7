// Everything works without a mouse: menu, search, a VM's actions, and the way out of each.
import { must } from './browser.mjs';

export async function keyboard({ tally, page }) {
  const focused = (look) => page.evaluate(look);
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  /** Goes on until what has the focus is called so. */
  const tabTo = async (name) => {
    for (let step = 0; step < 80; step += 1) {
      await page.keyboard.press('Tab');
      const here = await focused(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent?.trim() ?? '');
      if (here === name) return;
    }
    throw new Error(`the focus never comes to ${name}`);
  };

  await tally.test('a VM is found, its menu opened and an action begun and left, by keyboard alone', async () => {
    await page.goto('/');
    await page.getByRole('region', { name: 'Totals' }).waitFor();
    await press('Tab');
    must((await focused(() => document.activeElement?.textContent)) === 'To the content', 'the first stop does not lead past the menu');
    await press('Enter');
    must((await focused(() => document.activeElement?.id)) === 'content', 'it does not lead to the content');

    await press('/');
    const dialog = page.getByRole('dialog');
    await dialog.waitFor();
    await page.keyboard.type('web');
    await dialog.getByRole('link', { name: 'web' }).first().waitFor();
    // From the field to the first that was found.
    await press('Tab');
    must((await focused(() => document.activeElement?.getAttribute('href'))) === '/vms/web', 'what was found is not the next stop');
    await press('Enter');
    await page.waitForURL('**/vms/web');

    await page.getByRole('heading', { name: 'web', level: 1 }).waitFor();
    await tabTo('More for web');
    await press('Enter');
    const menu = page.getByRole('menu', { name: 'More for web' });
    await menu.waitFor();
    // The browser shows it before it says so, and only then the focus goes there.
    await page.waitForFunction(() => document.activeElement?.getAttribute('role') === 'menuitem');
    await press('ArrowDown', 'ArrowUp', 'ArrowUp');
    must((await focused(() => document.activeElement?.getAttribute('role'))) === 'menuitem', 'arrows leave the menu');
    await press('Escape');
    await menu.waitFor({ state: 'hidden' });
    must((await focused(() => document.activeElement?.getAttribute('aria-label'))) === 'More for web', 'the focus is lost');

    await press('Enter');
    await menu.waitFor();
    await menu.getByRole('menuitem', { name: 'Delete' }).focus();
    await press('Enter');
    await dialog.getByRole('heading', { name: 'Delete web?' }).waitFor();
    await press('Escape');
    await dialog.waitFor({ state: 'detached' });
  });
}
