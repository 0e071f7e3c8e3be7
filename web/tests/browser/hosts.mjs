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
    await choose(idle, 'Reboot');
    await dialog.getByText('This also proves that it can be woken').waitFor();
    await dialog.getByRole('button', { name: 'Reboot' }).click();
    await done(idle);
    await choose(idle, 'Sleep');
    must((await dialog.locator('details pre').first().textContent()) === `gantry host sleep ${idle}`, 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await dialog.getByRole('button', { name: 'Sleep' }).click();
    await page.locator('header .pill', { hasText: 'sleeping' }).waitFor({ timeout: BOOT_MS });

    await page.goto('/');
    await page.locator(`[data-host=${idle}].asleep`).getByText('sleeping').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-datacenter-asleep');
    await page.goto(`/hosts/${idle}`);
    await page.getByRole('button', { name: 'Wake' }).click();
    await page.locator('header .pill', { hasText: 'ready' }).waitFor({ timeout: BOOT_MS });
    await done(idle);
  });

  async function choose(host, action) {
    const button = page.getByRole('button', { name: action, exact: true });
    if (await button.isVisible()) return button.click();
    await page.getByRole('button', { name: `More for ${host}` }).click();
    await page.getByRole('menuitem', { name: action }).click();
  }

  /** The host's operation is over, and nothing went wrong. */
  async function done(host) {
    await dialog.waitFor({ state: 'detached' });
    await page.waitForFunction(
      async (name) => {
        const { status } = await (await fetch(`/v1/hosts/${name}`)).json();
        return !status.operation && status.state === 'ready';
      },
      host,
      { timeout: BOOT_MS, polling: 250 },
    );
  }
}
