// A host that nobody needs is switched off, seen asleep, and switched on again.
import { must, mustHaveNoBarriers, picture } from './browser.mjs';
import { BOOT_MS } from './guest.mjs';

export async function hosts({ tally, page }) {
  const dialog = page.getByRole('dialog');

  await tally.test('a host is rebooted, which proves that it wakes, put to sleep, seen asleep, and woken', async () => {
    await page.goto('/vms/web');
    const home = await page.evaluate(async () => (await (await fetch('/v1/vms/web')).json()).status.host);
    const idle = home === 'host-1' ? 'host-2' : 'host-1';
    await page.goto(`/hosts/${idle}`);
    await choose('Reboot');
    await dialog.getByText('This also proves that it can be woken').waitFor();
    await dialog.getByRole('button', { name: 'Reboot' }).click();
    await dialog.waitFor({ state: 'detached' });
    await choose('Sleep');
    must((await dialog.locator('details pre').first().textContent()) === `gantry host sleep ${idle}`, 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    // Not before the reboot is over.
    await dialog.getByRole('button', { name: 'Sleep' }).click({ timeout: BOOT_MS });
    await page.locator('header .pill', { hasText: 'sleeping' }).waitFor({ timeout: BOOT_MS });

    await page.goto('/');
    await page.locator(`[data-host=${idle}].asleep`).getByText('sleeping').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-datacenter-asleep');
    await page.goto(`/hosts/${idle}`);
    await choose('Wake');
    await page.locator('header .pill', { hasText: 'ready' }).waitFor({ timeout: BOOT_MS });
    // Nothing is at work on it any more.
    await page.getByRole('button', { name: 'Drain' }).waitFor({ timeout: BOOT_MS });
  });

  /** As soon as it is possible: the page offers then. */
  function choose(action) {
    return page.getByRole('button', { name: action, exact: true }).click({ timeout: BOOT_MS });
  }
}
