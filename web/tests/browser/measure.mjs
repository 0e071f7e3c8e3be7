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
/** A frame that took longer is one that people notice. */
const LONG_FRAME_MS = 50;

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
    const long = { product: [], peer: [] };
    let updates = 0;
    for (let run = 0; run < RUNS; run += 1) {
      const blank = await frames(url, '/blank', async () => {});
      const before = server.sent;
      const drawn = await frames(url, path, ready);
      peer.push(blank.drawn);
      product.push(drawn.drawn);
      long.peer.push(blank.long);
      long.product.push(drawn.long);
      updates += server.sent - before;
    }
    console.error(`${name}: ${product.join(', ')} of ${peer.join(', ')} frames; ${updates} updates`);
    found.push({ name, product: median(product), peer: median(peer), runs: RUNS });
    found.push({ name: name.replace('_frames', '_long_frames'), product: median(long.product), peer: median(long.peer), runs: RUNS });
  }
  await Promise.all([server.stop(), long.stop()]);
  return found;
}

async function frames(baseURL, path, ready) {
  const { page, context } = await openPage(browser, { baseURL });
  await page.goto(path);
  await ready(page);
  const count = await page.evaluate(
    ([ms, longMs]) =>
      new Promise((resolve) => {
        const began = performance.now();
        let [drawn, long, before] = [0, 0, began];
        const step = (now) => {
          drawn += 1;
          if (now - before > longMs) long += 1;
          before = now;
          if (now - began < ms) requestAnimationFrame(step);
          else resolve({ drawn, long });
        };
        requestAnimationFrame(step);
      }),
    [MEASURED_MS, LONG_FRAME_MS],
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
  const scripts = [];
  for (let run = 0; run < RUNS; run += 1) {
    // A context of its own has an empty cache.
    const fresh = await openPage(browser, { baseURL: url, storageState });
    const began = performance.now();
    await fresh.page.goto('/');
    await fresh.page.getByRole('region', { name: 'Totals' }).waitFor();
    shown.push(performance.now() - began);
    paints.push(await fresh.page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    scripts.push(await fresh.page.evaluate(() => performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.js')).reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)));
    await fresh.context.close();
  }
  const list = await openPage(browser, { baseURL: url, storageState });
  const opened = await timed(list.page, () => list.page.goto('/vms'), 'vm-000000');
  const middle = await timed(list.page, () => scrollTo(list.page, 0.5), /vm-\d+/);
  const total = await list.page.locator('.tools [role=status]').innerText();
  const wanted = 'vm-012345';
  const searched = await timed(list.page, () => list.page.getByLabel('Search VMs').fill(wanted), wanted);
  const sorted = await timed(list.page, () => list.page.goto('/vms?sort=-name'), /vm-\d+/);
  const everything = [];
  // One of many, and nearly all of them.
  for (const q of ['vm-012345', 'vm-']) everything.push(await timedSearch(list.page, q));
  await list.context.close();
  console.error(`lists of ${total}`);
  return [
    { name: 'ui_first_paint_ms', product: median(paints), runs: RUNS },
    { name: 'ui_initial_javascript_kb', product: median(scripts) / 1000, runs: RUNS },
    { name: 'ui_overview_shown_ms', product: median(shown), runs: RUNS },
    { name: 'ui_list_opened_ms', product: opened, runs: 1 },
    { name: 'ui_list_scrolled_ms', product: middle, runs: 1 },
    { name: 'ui_list_searched_ms', product: searched, runs: 1 },
    { name: 'ui_list_sorted_ms', product: sorted, runs: 1 },
    { name: 'ui_search_one_ms', product: everything[0], runs: 1 },
    { name: 'ui_search_nearly_all_ms', product: everything[1], runs: 1 },
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

/** Of the search over everything, as the page asks it. */
function timedSearch(page, q) {
  return page.evaluate(async (words) => {
    const began = performance.now();
    const answer = await fetch(`/v1/search?q=${encodeURIComponent(words)}`);
    if (!(await answer.json()).items.length) throw new Error(`${words} is not found`);
    return performance.now() - began;
  }, q);
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
