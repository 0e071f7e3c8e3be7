// An alarm from its dialog to a receiver of our own, which fails at first; acknowledged, silenced, and over.
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { must, mustHaveNoBarriers, picture, SOON_MS } from './browser.mjs';

export async function alarms({ tally, page, url }) {
  const dialog = page.getByRole('dialog');
  const desk = await Desk.open(new URL(url));
  // Others may fire, too: the machine's disk may be nearly full.
  const fired = page.getByRole('region', { name: 'What fires now' }).getByRole('article').filter({ hasText: 'web-works' });

  await tally.test('a receiver is made and tried: it is told why it failed, and that it has arrived', async () => {
    await page.goto('/alarms?tab=receivers');
    await page.getByRole('button', { name: 'Create receiver' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('ops');
    await dialog.getByLabel('URL').fill('chat');
    await dialog.getByText('is not a URL that begins with http').waitFor();
    await dialog.getByLabel('URL').fill(desk.url);
    await dialog.getByLabel('Authorization').fill('Bearer s3cret');
    await dialog.getByText('The controller has checked it').waitFor();
    must(!(await dialog.innerText()).includes('s3cret'), 'the secret is shown');
    await made('Create receiver', 'wide-light-create-receiver');
    await row('ops').getByText('webhook', { exact: true }).waitFor();

    desk.refuses = 1;
    await page.getByRole('button', { name: 'More for ops' }).click();
    await page.getByRole('menuitem', { name: 'Try it' }).click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry receiver test ops', 'the command line is not what is done');
    await dialog.getByRole('button', { name: 'Send' }).click();
    await dialog.getByText('It has not arrived').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-try-receiver');
    await dialog.getByText('It has arrived').waitFor();
    await dialog.getByRole('button', { name: 'Done' }).click();
    must(desk.heard.at(-1)?.state === 'test' && desk.authorization === 'Bearer s3cret', 'the receiver heard something else');
  });

  await tally.test('an alarm is made, fires, and is told on the first page and to the receiver', async () => {
    await page.goto('/alarms');
    await page.getByRole('button', { name: 'Create alarm' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('web-works');
    await dialog.getByLabel('Severity').selectOption('critical');
    await dialog.getByLabel('What it means').fill('It works at all. Nothing has to be done.');
    await dialog.getByLabel('It fires when').selectOption('a VM’s processor time');
    await dialog.getByLabel('Threshold').fill('-1');
    await dialog.getByLabel('For seconds').fill('0');
    await dialog.getByLabel('Only these').fill('Web');
    await dialog.getByText(/The controller has objections|spec.objects/).first().waitFor();
    await dialog.getByLabel('Only these').fill('web');
    await made('Create alarm', 'wide-light-create-alarm');
    await fired.getByText("VM 'web' uses").waitFor();
    await picture(page, 'wide-light-alarm-fires');
    await heard('firing');
    await page.goto('/');
    await page.getByRole('region', { name: 'What is wrong' }).getByText('It works at all. Nothing has to be done.').waitFor();
    await picture(page, 'wide-light-datacenter-alarm');
    await page.getByRole('link', { name: 'Alarm web-works' }).click();
    await fired.getByText("VM 'web' uses").waitFor();
  });

  await tally.test('it is silenced and acknowledged, and what is told is listed', async () => {
    await fired.getByRole('button', { name: 'Silence' }).click();
    await dialog.getByLabel('For', { exact: true }).selectOption('a day');
    await dialog.getByLabel('Why').fill('we know');
    must((await dialog.locator('details pre').first().textContent()) === "gantry alarm silence web-works --object vm/web --for 1d --why 'we know'", 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-silence');
    await dialog.getByRole('button', { name: 'Silence' }).click();
    await fired.getByText('silenced by').waitFor();
    await page.getByRole('region', { name: 'Silences' }).getByText('we know').waitFor();
    await picture(page, 'wide-light-silenced');
    await fired.getByRole('button', { name: 'End silence' }).click();
    await dialog.getByRole('button', { name: 'End silence' }).click();
    await fired.getByText('firing', { exact: true }).waitFor();

    await fired.getByRole('button', { name: 'Acknowledge' }).click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry alarm acknowledge web-works --object vm/web', 'the command line is not what is done');
    await dialog.getByRole('button', { name: 'Acknowledge' }).click();
    await fired.getByText('takes care of it').waitFor();
    await page.goto('/');
    await page.getByRole('region', { name: 'Totals' }).waitFor();
    await page.getByText('It works at all. Nothing has to be done.').waitFor({ state: 'detached' });

    await page.goto('/alarms?tab=notices');
    await row('web-works firing').getByText('delivered').first().waitFor();
    await page.getByText('Given up', { exact: true }).click();
    await page.getByRole('heading', { name: 'No notices' }).waitFor();
  });

  await tally.test('one that comes with Gantry is changed and switched off, and can’t be deleted', async () => {
    await page.goto('/alarms?q=vm-unhealthy');
    await page.getByRole('button', { name: 'More for vm-unhealthy' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).getByText('it comes with Gantry').waitFor();
    await page.getByRole('menuitem', { name: 'Change' }).click();
    await dialog.getByLabel('For seconds').fill('10');
    await made('Change alarm', 'wide-light-change-alarm');
    await row('vm-unhealthy').getByText('for 10 s').waitFor();
    await page.getByRole('button', { name: 'More for vm-unhealthy' }).click();
    await page.getByRole('menuitem', { name: 'Switch off' }).click();
    await dialog.getByRole('button', { name: 'Switch off' }).click();
    await row('vm-unhealthy').getByText('off', { exact: true }).waitFor();
    await page.getByRole('button', { name: 'More for vm-unhealthy' }).click();
    await page.getByRole('menuitem', { name: 'Switch on' }).click();
    await row('vm-unhealthy').getByText('ok', { exact: true }).waitFor();
  });

  /** Once all pages have been looked at. */
  return async () => {
    await tally.test('alarm and receiver are deleted again, and that it is over is told', async () => {
      await remove('/alarms?q=web-works', 'web-works');
      await page.getByRole('heading', { name: 'No alarms match' }).waitFor();
      await remove('/alarms?tab=receivers', 'ops');
      await page.getByRole('heading', { name: 'No receivers' }).waitFor();
    });
    desk.close();
  };

  async function heard(state) {
    const until = Date.now() + SOON_MS;
    while (!desk.heard.some((message) => message.state === state && message.alarm === 'web-works')) {
      must(Date.now() < until, `the receiver heard only ${JSON.stringify(desk.heard)}`);
      await new Promise((done) => setTimeout(done, 100));
    }
  }

  async function remove(path, name) {
    await page.goto(path);
    await page.getByRole('button', { name: `More for ${name}`, exact: true }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete' }).click();
    await dialog.waitFor({ state: 'detached' });
  }

  /** Once the controller has checked it. */
  async function made(button, name) {
    await dialog.getByText('The controller has checked it').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, name);
    await dialog.getByRole('button', { name: button }).click();
    await dialog.waitFor({ state: 'detached' });
  }

  function row(name) {
    return page.getByRole('row').filter({ hasText: name });
  }
}

/** A receiver of webhooks that the controller reaches as it is reached from here. */
class Desk {
  heard = [];
  authorization;
  /** So many messages are not taken. */
  refuses = 0;

  static async open({ hostname, port }) {
    const desk = new Desk();
    desk.server = createServer((request, response) => desk.#take(request, response));
    await new Promise((resolve) => desk.server.listen(0, '0.0.0.0', resolve));
    const own = await new Promise((resolve, reject) => {
      const socket = connect(Number(port), hostname, () => {
        resolve(socket.localAddress);
        socket.destroy();
      });
      socket.on('error', reject);
    });
    desk.url = `http://${own}:${desk.server.address().port}/hooks`;
    return desk;
  }

  #take(request, response) {
    let body = '';
    request.on('data', (part) => (body += part));
    request.on('end', () => {
      const refused = this.refuses > 0;
      if (refused) this.refuses -= 1;
      else {
        this.heard.push(JSON.parse(body));
        this.authorization = request.headers.authorization;
      }
      response.writeHead(refused ? 503 : 204).end();
    });
  }

  close() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
