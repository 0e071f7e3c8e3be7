// The UI in a real browser, against a real lab with real guests. The lab has two hosts and no VMs
// (`gantry lab up --hosts 2`) and is given by GANTRY_URL, GANTRY_PASSWORD (web-password in its directory), GANTRY_IMAGE
// (target/guest/guest.qcow2) and GANTRY_CONTROLLER_PID.
import { barriers, launch, must, openPage, PHONE, picture, Tally, WIDE } from './browser.mjs';

const url = required('GANTRY_URL');
const password = required('GANTRY_PASSWORD');
const image = required('GANTRY_IMAGE');
const controller = Number(required('GANTRY_CONTROLLER_PID'));
/** Guests boot under emulation, on a machine that does other things. */
const BOOT_MS = 120_000;
const SOON_MS = 20_000;

const tally = new Tally();
const browser = await launch();
const { page, context, complaints } = await openPage(browser, { baseURL: url });
page.setDefaultTimeout(SOON_MS);

await tally.test('a wrong password is refused in words', async () => {
  await page.goto('/vms');
  await logIn('not-the-password-at-all');
  await page.getByRole('alert').waitFor();
  must((await barriers(page)).length === 0, (await barriers(page)).join('\n'));
  await picture(page, 'light-login');
});

await tally.vital('logging in leads to the page that was asked for', async () => {
  await logIn(password);
  await page.getByRole('heading', { name: 'VMs', level: 1 }).waitFor();
  const cookies = await context.cookies();
  must(cookies.length > 0 && cookies.every((cookie) => cookie.httpOnly && cookie.secure && cookie.sameSite === 'Strict'), 'the session cookie is open to scripts or other sites');
});

await tally.vital('an image is uploaded, with its progress, and becomes ready', async () => {
  await page.goto('/images');
  await page.getByRole('button', { name: 'Upload an image' }).click();
  await page.getByLabel('File', { exact: true }).setInputFiles(image);
  await page.getByLabel('Name', { exact: true }).fill('guest');
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await row('guest').getByText('ready').waitFor();
});

await tally.vital('a VM is created beside the YAML that is applied', async () => {
  await page.goto('/vms');
  await page.getByRole('button', { name: 'Create VM' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name', { exact: true }).fill('web');
  await dialog.getByLabel('Memory').fill('7MiB');
  await dialog.getByText('out of range').waitFor();
  await dialog.getByLabel('Memory').fill('128MiB');
  await dialog.getByText('The controller has checked it').waitFor();
  const yaml = await dialog.getByLabel('YAML').innerText();
  must(/memory: 128MiB/.test(yaml) && /image: guest/.test(yaml) && /network: default/.test(yaml), yaml);
  await picture(page, 'light-create-vm');
  const found = await barriers(page);
  must(found.length === 0, found.join('\n'));
  await dialog.getByRole('button', { name: 'Create VM' }).click();
  await page.waitForURL('**/vms/web');
});

await tally.vital('it is watched while it starts, until its guest answers', async () => {
  await page.locator('header .pill', { hasText: 'running' }).waitFor({ timeout: BOOT_MS });
  await page.locator('dl div', { hasText: 'Guest answers' }).getByText('yes').waitFor({ timeout: BOOT_MS });
});

await tally.test('its console is opened and typed into', async () => {
  await page.getByRole('link', { name: 'Console' }).click();
  await page.locator('[data-console=open]').waitFor();
  await type('echo gantry-$((6*7))\n');
  await printed('gantry-42');
  await picture(page, 'light-console');
});

await tally.test('it is moved, and seen to move', async () => {
  const { page: overview } = await openPageIn(context);
  await overview.goto('/');
  const home = await hostOf(overview, 'web');
  await overview.evaluate(() => {
    globalThis.arrivals = 0;
    new MutationObserver(() => {
      globalThis.arrivals += document.querySelectorAll('.arriving[data-vm=web]').length;
    }).observe(document.body, { childList: true, subtree: true, attributes: true });
  });
  await page.goto('/vms/web');
  await page.getByRole('button', { name: 'Move', exact: true }).click();
  const target = home === 'host-1' ? 'host-2' : 'host-1';
  await page.getByRole('dialog').getByLabel('To').selectOption(target);
  must((await page.getByRole('dialog').locator('pre').first().textContent()) === `gantry vm migrate web --to ${target}`, 'the command line is not what is done');
  await page.getByRole('dialog').getByRole('button', { name: 'Move' }).click();
  await overview.locator(`[data-host=${target}] [data-vm=web]:not(.arriving)`).waitFor({ timeout: BOOT_MS });
  must((await overview.evaluate(() => globalThis.arrivals)) > 0, 'it was never seen on its way');
  await picture(overview, 'light-datacenter-moved');
  await overview.close();
});

await tally.test('what can’t be done is refused with the reason and the remedy', async () => {
  const refused = await page.evaluate(async () => {
    const { csrf_token } = await (await fetch('/v1/session')).json();
    const answer = await fetch('/v1/vms/web/migrate', { method: 'POST', headers: { 'Content-Type': 'application/json', 'X-Gantry-Csrf': csrf_token }, body: '{"to":"host-99"}' });
    return { status: answer.status, problem: await answer.json() };
  });
  must(refused.status >= 400 && refused.problem.detail, JSON.stringify(refused));
  const forged = await page.evaluate(async () => (await fetch('/v1/vms/web/reboot', { method: 'POST' })).status);
  must(forged === 403, `a request without the session's token got ${forged}`);
});

await tally.test('a lost connection is shown, and healed when the controller is back', async () => {
  await page.goto('/');
  await page.getByText('live', { exact: true }).waitFor();
  process.kill(controller, 'SIGSTOP');
  try {
    await page.getByText('The connection to the controller is lost').waitFor({ timeout: 40_000 });
    await picture(page, 'light-connection-lost');
  } finally {
    process.kill(controller, 'SIGCONT');
  }
  await page.getByText('live', { exact: true }).waitFor();
  must((await page.getByText('The connection to the controller is lost').count()) === 0, 'it still says that it is lost');
});

for (const [theme, viewport, tag] of [
  ['light', WIDE, 'light'],
  ['dark', WIDE, 'dark'],
  ['light', PHONE, 'phone'],
]) {
  await tally.test(`every page, ${tag}: no barrier that axe finds, nothing wider than the screen`, async () => {
    const state = await context.storageState();
    const { page: looked, context: own, complaints: said } = await openPage(browser, { viewport, colorScheme: theme, baseURL: url, storageState: state });
    const faults = [];
    for (const path of await pages()) {
      await looked.goto(path);
      await looked.locator('main h1').waitFor();
      await looked.evaluate(() => new Promise((done) => requestIdleCallback(done, { timeout: 1_000 })));
      await picture(looked, `${tag}${path === '/' ? '-datacenter' : path.replaceAll(/[/?=]/g, '-')}`);
      faults.push(...(await barriers(looked)).map((fault) => `${path}: ${fault}`));
      const excess = await looked.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (excess > 0) faults.push(`${path} is ${excess} px too wide`);
    }
    faults.push(...said);
    await own.close();
    must(faults.length === 0, faults.join('\n'));
  });
}

await tally.test('the policy was never violated and no script failed', () => {
  must(complaints.length === 0, complaints.join('\n'));
});

await browser.close();
tally.end();

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: see the head of this file`);
  return value;
}

async function logIn(word) {
  await page.getByLabel('Name').fill('admin');
  await page.getByLabel('Password').fill(word);
  await page.getByRole('button', { name: 'Log in' }).click();
}

function row(name) {
  return page.getByRole('row').filter({ hasText: name });
}

async function openPageIn(own) {
  return { page: await own.newPage() };
}

async function hostOf(overview, vm) {
  const bar = overview.locator(`[data-host]:has([data-vm=${vm}])`);
  await bar.waitFor();
  return bar.getAttribute('data-host');
}

async function type(text) {
  await page.locator('.xterm-helper-textarea').focus();
  await page.keyboard.type(text);
}

async function printed(text) {
  await page.locator('.xterm-rows').getByText(text).first().waitFor();
}

/** Every address in the menu, and one page of each kind of object. */
async function pages() {
  await page.goto('/');
  await page.locator('nav a[href="/vms"]').waitFor();
  const menu = await page.locator('nav[aria-label=Main] li a').evaluateAll((links) => links.map((link) => link.getAttribute('href')));
  return [...menu, '/vms/web', '/vms/web?tab=events', '/vms/web?tab=commands', '/vms/web?tab=console', '/hosts/host-1', '/hosts/host-1?tab=vms'];
}
