// What a datacenter of 25,000 hosts and 400,000 VMs asks of the browser: lists of any length, of which only what is in view
// is drawn and followed. `measure.mjs` has how fast.
import { launch, must, openPage, Tally } from './browser.mjs';
import { ScaleServer } from './scale-server.mjs';

const tally = new Tally();
const browser = await launch();

await tally.test('a list of 400,000 VMs draws only what is in view, anywhere in it', async () => {
  const server = new ScaleServer();
  const { page } = await openPage(browser, { baseURL: await server.start() });
  await page.goto('/vms');
  await page.getByText('400,000 VMs').waitFor();
  const list = page.getByRole('table', { name: 'VMs' });
  for (const share of [0, 0.5, 1]) {
    await list.evaluate((view, to) => view.scrollTo(0, (view.scrollHeight - view.clientHeight) * to), share);
    const wanted = `vm-${String(share === 1 ? 399_999 : Math.round(400_000 * share)).padStart(6, '0').slice(0, 3)}`;
    await list.getByText(wanted).first().waitFor();
    const rows = await list.getByRole('row').count();
    must(rows < 60, `${rows} rows are drawn`);
  }
  await page.getByLabel('Search VMs').fill('web');
  await page.getByText('40,000 VMs').waitFor();
  await page.context().close();
  await server.stop();
});

await tally.test('a datacenter of 25,000 hosts is drawn as its groups, and one of them as its hosts', async () => {
  const server = new ScaleServer();
  const { page } = await openPage(browser, { baseURL: await server.start() });
  await page.goto('/');
  await page.getByRole('table', { name: 'Groups of hosts' }).waitFor();
  must((await page.getByRole('row').count()) < 60, 'all groups are drawn');
  await page.getByRole('button', { name: 'rack-0003' }).click();
  await page.locator('[data-host=host-60]').waitFor();
  must((await page.locator('[data-host]').count()) === 20, 'not its hosts alone');
  await page.context().close();
  await server.stop();
});

await tally.test('rows change as the server says, and nothing else is asked', async () => {
  const server = new ScaleServer({ updatesPerSecond: 50 });
  const { page } = await openPage(browser, { baseURL: await server.start() });
  await page.goto('/vms');
  // One of 97 begins to move with the first changes that come.
  await page.getByRole('row').filter({ hasText: 'vm-000000' }).getByText('migrating').waitFor();
  await page.context().close();
  await server.stop();
});

await browser.close();
tally.end();
