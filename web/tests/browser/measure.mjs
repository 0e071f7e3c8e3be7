// How fast the UI is, as figures in JSON on the last line; run by `cargo xtask bench ui`, which knows what is promised.
//
// Frames are counted while a made-up datacenter changes 2,000 times a second, against an empty page in the same browser, in
// turns, so that a busy machine slows both. The rest is measured at a real controller that is full of objects (GANTRY_URL,
// GANTRY_PASSWORD).
import { launch, openPage } from './browser.mjs';
import { ScaleServer } from './scale-server.mjs';

const UPDATES_PER_S = 2_000;
const MEASURED_MS = 4_000;
const RUNS = 3;

const browser = await launch();
const figures = [...(await frameFigures()), ...(await realFigures(process.env.GANTRY_URL, process.env.GANTRY_PASSWORD))];
await browser.close();
console.log(JSON.stringify(figures));

/** Frames within the time measured, of the datacenter and of a list, and of an empty page before each. */
async function frameFigures() {
  const server = new ScaleServer({ hosts: 40, vms: 640, watchedHosts: 40, watchedVms: 640, updatesPerSecond: UPDATES_PER_S });
  const long = new ScaleServer({ updatesPerSecond: UPDATES_PER_S });
  const [url, longUrl] = [await server.start(), await long.start()];
  const views = [
    { name: 'ui_datacenter_frames', url, path: '/', ready: (page) => page.locator('[data-vm]').nth(500).waitFor({ state: 'attached' }), server },
    { name: 'ui_list_frames', url: longUrl, path: '/vms', ready: (page) => page.getByText('vm-000010').waitFor(), server: long },
  ];
  const found = [];
  for (const { name, url, path, ready, server } of views) {
    const product = [];
    const peer = [];
    let updates = 0;
    for (let run = 0; run < RUNS; run += 1) {
      peer.push(await frames(url, '/blank', async () => {}));
      const before = server.sent;
      product.push(await frames(url, path, ready));
      updates += server.sent - before;
    }
    console.error(`${name}: ${product.join(', ')} of ${peer.join(', ')} frames; ${updates} updates`);
    found.push({ name, product: median(product), peer: median(peer), runs: RUNS });
  }
  await Promise.all([server.stop(), long.stop()]);
  return found;
}

async function frames(baseURL, path, ready) {
  const { page, context } = await openPage(browser, { baseURL });
  await page.goto(path);
  await ready(page);
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
  await context.close();
  return count;
}

async function realFigures(url, password) {
  if (!url) return [];
  const { page, context } = await openPage(browser, { baseURL: url });
  await page.goto('/');
  await page.getByLabel('Name').fill('admin');
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('navigation', { name: 'Main' }).waitFor();
  const storageState = await context.storageState();
  await context.close();

  const paints = [];
  const shown = [];
  for (let run = 0; run < RUNS; run += 1) {
    // A context of its own has an empty cache.
    const fresh = await openPage(browser, { baseURL: url, storageState });
    const began = performance.now();
    await fresh.page.goto('/');
    await fresh.page.getByRole('region', { name: 'Totals' }).waitFor();
    shown.push(performance.now() - began);
    paints.push(await fresh.page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    await fresh.context.close();
  }
  const list = await openPage(browser, { baseURL: url, storageState });
  const opened = await timed(list.page, () => list.page.goto('/vms'), 'vm-000000');
  const middle = await timed(list.page, () => scrollTo(list.page, 0.5), /vm-\d+/);
  const total = await list.page.locator('.tools [role=status]').innerText();
  const wanted = 'vm-012345';
  const searched = await timed(list.page, () => list.page.getByLabel('Search VMs').fill(wanted), wanted);
  const sorted = await timed(list.page, () => list.page.goto('/vms?sort=-name'), /vm-\d+/);
  await list.context.close();
  console.error(`lists of ${total}`);
  return [
    { name: 'ui_first_paint_ms', product: median(paints), runs: RUNS },
    { name: 'ui_overview_shown_ms', product: median(shown), runs: RUNS },
    { name: 'ui_list_opened_ms', product: opened, runs: 1 },
    { name: 'ui_list_scrolled_ms', product: middle, runs: 1 },
    { name: 'ui_list_searched_ms', product: searched, runs: 1 },
    { name: 'ui_list_sorted_ms', product: sorted, runs: 1 },
  ];
}

/** From what is done until a row with that text is there; rows that still wait don't count. */
async function timed(page, act, text) {
  const began = performance.now();
  await act();
  await page.waitForFunction(() => !document.querySelector('main .ghost'));
  await page.getByRole('row').getByText(text).first().waitFor();
  return performance.now() - began;
}

function scrollTo(page, share) {
  return page.getByRole('table', { name: 'VMs' }).evaluate(
    (view, to) =>
      new Promise((done) => {
        view.scrollTo(0, (view.scrollHeight - view.clientHeight) * to);
        // The rows that were there are gone with the next frame.
        requestAnimationFrame(() => requestAnimationFrame(done));
      }),
    share,
  );
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}
