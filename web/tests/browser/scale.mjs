// What a datacenter of 25,000 hosts and 400,000 VMs asks of the browser: lists of any length, and 2,000 updates a second
// without dropping frames. Frames are compared with what the same browser does with the same page when nothing changes,
// so that the measure does not depend on the machine.
import { launch, must, openPage, Tally } from './browser.mjs';
import { ScaleServer } from './scale-server.mjs';

const UPDATES_PER_S = 2_000;
const MEASURED_MS = 4_000;
/** Of the frames that an idle page gets. */
const FRAMES_LEAST = 0.8;

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

await tally.test(`${UPDATES_PER_S} updates a second drop no frames`, async () => {
  const idle = await frames(0);
  const busy = await frames(UPDATES_PER_S);
  console.log(`       idle ${idle.frames} frames in ${MEASURED_MS / 1000} s, with ${busy.updates} updates ${busy.frames}`);
  must(busy.updates > UPDATES_PER_S * (MEASURED_MS / 1000) * 0.5, `only ${busy.updates} updates were sent`);
  must(busy.frames >= idle.frames * FRAMES_LEAST, `${busy.frames} frames of ${idle.frames}`);
});

await browser.close();
tally.end();

async function frames(updatesPerSecond) {
  const server = new ScaleServer({ hosts: 40, vms: 640, watchedHosts: 40, watchedVms: 640, updatesPerSecond });
  const { page } = await openPage(browser, { baseURL: await server.start() });
  await page.goto('/');
  await page.locator('[data-vm]').nth(500).waitFor({ state: 'attached' });
  const before = server.sent;
  const count = await page.evaluate(
    (ms) =>
      new Promise((resolve) => {
        const began = performance.now();
        let drawn = 0;
        const step = (now) => {
          drawn += 1;
          if (now - began < ms) requestAnimationFrame(step);
          else resolve(drawn);
        };
        requestAnimationFrame(step);
      }),
    MEASURED_MS,
  );
  const updates = server.sent - before;
  await page.context().close();
  await server.stop();
  return { frames: count, updates };
}
