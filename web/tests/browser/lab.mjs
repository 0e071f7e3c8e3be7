// The UI in a real browser, against a real lab with real guests. The lab has two hosts and no VMs
// (`gantry lab up --hosts 2`) and is given by GANTRY_URL, GANTRY_PASSWORD (web-password in its directory), GANTRY_IMAGE
// (target/guest/guest.qcow2) and GANTRY_CONTROLLER_PID. Pictures are left in target/web-screenshots.
import { alarms } from './alarms.mjs';
import { backups } from './backups.mjs';
import { launch, must, mustHaveNoBarriers, openPage, picture, Tally } from './browser.mjs';
import { forms } from './forms.mjs';
import { BOOT_MS, consoles, move, prepareRecovery, recovery } from './guest.mjs';
import { hosts } from './hosts.mjs';
import { keyboard } from './keyboard.mjs';
import { looks } from './looks.mjs';
import { storage } from './storage.mjs';

const url = required('GANTRY_URL');
const password = required('GANTRY_PASSWORD');
const image = required('GANTRY_IMAGE');
const controller = Number(required('GANTRY_CONTROLLER_PID'));

const tally = new Tally();
const browser = await launch();
const { page, context, complaints } = await openPage(browser, { baseURL: url });
const stage = { tally, browser, context, page, url };
tally.onfailure = (name) => picture(page, `failed-${name.replaceAll(/[^a-z0-9]+/gi, '-').slice(0, 60)}`);

await tally.test('a wrong password is refused in words', async () => {
  // The lab's interfaces have just come up, and the browser gives up what it loads as often as it hears of one.
  const until = Date.now() + 30_000;
  const changes = (error) => String(error).includes('ERR_NETWORK_CHANGED') && Date.now() < until;
  while (!(await page.goto('/vms').catch((error) => { if (!changes(error)) throw error; })));
  await logIn('not-the-password-at-all');
  await page.getByRole('alert').waitFor();
  await mustHaveNoBarriers(page);
  await picture(page, 'wide-light-login');
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
  await mustHaveNoBarriers(page);
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
  await dialog.getByText('More', { exact: true }).click();
  await dialog.getByLabel('Owner').selectOption('admin');
  await dialog.getByLabel('It has a screen').check();
  await dialog.getByLabel('Keep a good state after').fill('10');
  await dialog.getByText('The controller has checked it').waitFor();
  const yaml = await dialog.getByLabel('YAML').innerText();
  must(/memory: 128MiB/.test(yaml) && /image: guest/.test(yaml) && /network: default/.test(yaml), yaml);
  await picture(page, 'wide-light-create-vm');
  await mustHaveNoBarriers(page);
  await dialog.getByRole('button', { name: 'Create VM' }).click();
  await page.waitForURL('**/vms/web');
});

await tally.vital('it is watched while it starts, until its guest answers', async () => {
  await page.locator('header .pill', { hasText: 'running' }).waitFor({ timeout: BOOT_MS });
  await page.locator('dl div', { hasText: 'Guest answers' }).getByText('yes').waitFor({ timeout: BOOT_MS });
});

await consoles(stage);
await prepareRecovery(stage);
await move(stage);

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
    await page.getByText('The connection to the controller is lost').waitFor({ timeout: 60_000 });
    // How old what is shown is by now.
    await page.locator('main header').getByText(/as of [1-9]\d s ago/).waitFor();
    await picture(page, 'wide-light-connection-lost');
  } finally {
    process.kill(controller, 'SIGCONT');
  }
  await page.getByText('live', { exact: true }).waitFor();
  must((await page.getByText('The connection to the controller is lost').count()) === 0, 'it still says that it is lost');
});

await recovery(stage);
await keyboard(stage);
await forms(stage);
await hosts(stage);
const deleteBackups = await backups(stage);
const deleteAlarms = await alarms(stage);
const deleteStorage = await storage(stage);
await looks(stage);
await deleteAlarms();
await deleteStorage();
await deleteBackups();

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
