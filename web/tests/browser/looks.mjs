// Every page as it looks: wide in both themes and on a phone, each against axe and against its own width.
import { barriers, openPage, PHONE, picture, WIDE } from './browser.mjs';

export async function looks({ tally, browser, url, context, page }) {
  const storageState = await context.storageState();
  const paths = await everyPath(page);
  const { page: looked, context: own, complaints } = await openPage(browser, { baseURL: url, storageState });
  for (const path of paths) {
    await tally.test(`${path} has no barrier that axe finds, in both themes and on a phone`, async () => {
      const faults = [];
      const name = path === '/' ? 'datacenter' : path.slice(1).replaceAll(/[^a-z0-9]+/g, '-');
      const look = async (tag, rules) => {
        await settled(looked);
        await picture(looked, `${tag}-${name}`);
        faults.push(...(await barriers(looked, rules)).map((fault) => `${tag}: ${fault}`));
        const excess = await looked.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (excess > 0) faults.push(`${tag}: ${excess} px too wide`);
      };
      await looked.setViewportSize(WIDE);
      await looked.emulateMedia({ colorScheme: 'light' });
      await looked.goto(path);
      await looked.locator('main h1').waitFor();
      await look('wide-light');
      await looked.emulateMedia({ colorScheme: 'dark' });
      await look('wide-dark', ['color-contrast']);
      await looked.setViewportSize(PHONE);
      await look('phone-dark', ['target-size', 'scrollable-region-focusable']);
      await looked.emulateMedia({ colorScheme: 'light' });
      await settled(looked);
      await picture(looked, `phone-light-${name}`);
      faults.push(...complaints.splice(0));
      if (faults.length > 0) throw new Error(faults.join('\n'));
    });
  }
  await own.close();
}

/** What was fetched has come and is drawn: nothing waits, and two frames have passed. */
async function settled(page) {
  await page.waitForFunction(() => !document.querySelector('main .ghost, main [aria-busy=true], main [data-console=connecting]'));
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestIdleCallback(done, { timeout: 500 }))));
}

/** Every address in the menu, and the parts of one page of each kind of object. */
async function everyPath(page) {
  await page.goto('/');
  await page.locator('nav a[href="/vms"]').waitFor();
  const menu = await links(page, 'nav[aria-label=Main] li a');
  const parts = [];
  for (const path of ['/vms/web', '/hosts/host-1', '/networks', '/storage', '/backups', '/alarms', '/users']) {
    await page.goto(path);
    await page.locator('nav[aria-label^="Parts of"] a').first().waitFor();
    parts.push(...(await links(page, 'nav[aria-label^="Parts of"] a')));
  }
  await page.goto('/operations');
  const operation = page.getByRole('row').getByRole('link').first();
  await operation.waitFor();
  return [...new Set([...menu, ...parts, await operation.getAttribute('href')])];
}

function links(page, selector) {
  return page.locator(selector).evaluateAll((found) => found.map((link) => link.getAttribute('href')));
}
