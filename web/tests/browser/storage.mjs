// A pool and a volume, from being made to being deleted; the volume is given to a VM that runs, and taken from it.
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { must, mustHaveNoBarriers, picture } from './browser.mjs';
import { BOOT_MS } from './guest.mjs';

export async function storage({ tally, page }) {
  const dialog = page.getByRole('dialog');
  const directory = mkdtempSync(join(tmpdir(), 'gantry-web-pool-'));
  // VMs' users have to come to what is in it.
  chmodSync(directory, 0o755);

  await tally.test('a pool is made, and a volume in it', async () => {
    const host = await hostOf(page);
    await page.goto('/storage');
    await page.getByRole('button', { name: 'Create pool' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('fast');
    await dialog.getByLabel('Host').selectOption(host);
    await dialog.getByLabel('Directory').fill('not-a-path');
    await dialog.getByText('give an absolute path').waitFor();
    await dialog.getByLabel('Directory').fill(join(directory, 'fast'));
    await dialog.getByLabel('Warns at').fill('1');
    await made('Create pool', 'wide-light-create-pool');
    await row('fast').getByText('nearly full').waitFor();
    await picture(page, 'wide-light-pool-nearly-full');
    await page.getByRole('button', { name: 'More for fast' }).click();
    await page.getByRole('menuitem', { name: 'Change limits' }).click();
    await dialog.getByLabel('Warns at').fill('100');
    await made('Change limits', 'wide-light-change-pool');
    await row('fast').getByText('healthy').waitFor();

    await page.goto('/storage?tab=volumes');
    await page.getByRole('button', { name: 'Create volume' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('data');
    await dialog.getByLabel('Size').fill('16MiB');
    await dialog.getByLabel('Pool').selectOption('fast');
    await made('Create volume', 'wide-light-create-volume');
    await row('data').getByText('ready').waitFor();
  });

  await tally.test('a volume begins as an image, and is exported as a file', async () => {
    await page.getByRole('button', { name: 'Create volume' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('filled');
    await dialog.getByLabel('Size').fill('1MiB');
    await dialog.getByLabel('Pool').selectOption('fast');
    await dialog.getByLabel('Begins').selectOption('as image guest');
    await dialog.getByText('of image').first().waitFor();
    await dialog.getByLabel('Size').fill('256MiB');
    await made('Create volume', 'wide-light-create-volume-image');
    await row('filled').getByText('ready').waitFor();
    await page.getByRole('button', { name: 'More for filled' }).click();
    await page.getByRole('menuitem', { name: 'Export as a file' }).click();
    await dialog.getByLabel('Format').selectOption('vmdk');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry volume export filled ./filled.vmdk', 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-export-volume');
    const saving = page.waitForEvent('download');
    await dialog.getByRole('button', { name: 'Export' }).click();
    const saved = await saving;
    must(saved.suggestedFilename() === 'filled.vmdk', saved.suggestedFilename());
    const begin = readFileSync(await saved.path()).subarray(0, 4).toString('latin1');
    must(begin === 'KDMV', `it begins with ${begin}`);
    await dialog.waitFor({ state: 'detached' });
    await choose('filled', 'Delete');
    await row('filled').waitFor({ state: 'detached' });
  });

  await tally.test('a volume is cloned, and the clone is deleted', async () => {
    await page.getByRole('button', { name: 'More for data' }).click();
    await page.getByRole('menuitem', { name: 'Clone' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('twin');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry volume clone data twin', 'the command line is not what is done');
    await made('Clone volume', 'wide-light-clone-volume');
    await row('twin').getByText('ready').waitFor();
    await choose('twin', 'Delete');
    await row('twin').waitFor({ state: 'detached' });
  });

  await tally.test('a volume is attached to a VM that runs, limited and grown there', async () => {
    await page.goto('/vms/web?tab=volumes');
    await page.getByRole('button', { name: 'Attach volume' }).click();
    await page.locator('datalist option[value=data]').waitFor({ state: 'attached' });
    await dialog.getByLabel('Volume').fill('data');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-attach-volume');
    await dialog.getByRole('button', { name: 'Attach' }).click();
    await page.getByText('/dev/disk/by-id/virtio-data').waitFor({ timeout: BOOT_MS });

    await page.getByRole('button', { name: 'More for data' }).click();
    await page.getByRole('menuitem', { name: 'Grow or limit' }).click();
    await dialog.getByLabel('Size').fill('32MiB');
    await dialog.getByLabel('Requests a second').fill('500');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry volume set data --size 32MiB --iops 500', 'the command line is not what is done');
    await made('Change volume', 'wide-light-change-volume');
    await page.getByText('of 32 MiB').waitFor();
    await page.getByText('at most 500 requests/s').waitFor();
    await atRest();
    await picture(page, 'wide-light-volume-attached');
  });

  await tally.test('a volume moves to another pool while its VM has it, and is seen there', async () => {
    await page.getByRole('button', { name: 'More for data' }).click();
    await page.getByRole('menuitem', { name: 'Move to another pool' }).click();
    await dialog.getByLabel('To').selectOption(`local-${await hostOf(page)}`);
    await picture(page, 'wide-light-move-volume');
    await dialog.getByRole('button', { name: 'Move' }).click();
    await page.getByText(`in local-${await hostOf(page)}`).waitFor({ timeout: BOOT_MS });
    await atRest();
  });

  await tally.test('a VM’s own disk is offered the pools that its host reaches', async () => {
    await page.goto('/vms/web');
    await page.getByRole('button', { name: 'More for web' }).click();
    await page.getByRole('menuitem', { name: 'Move its disk to another pool' }).click();
    await dialog.getByText(`It is in local-${await hostOf(page)} now`).waitFor();
    await dialog.getByLabel('To').selectOption('fast');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry vm migrate web --pool fast', 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-move-disk');
    await dialog.getByRole('button', { name: 'Leave it' }).click();
    await dialog.waitFor({ state: 'detached' });
  });

  /** Once all pages have been looked at. */
  return async () => {
    await tally.test('what was made is detached and deleted again', async () => {
      await page.goto('/vms/web?tab=volumes');
      await choose('data', 'Detach');
      await page.getByRole('heading', { name: 'No volumes' }).waitFor({ timeout: BOOT_MS });
      await page.goto('/storage?tab=volumes');
      await choose('data', 'Delete');
      await page.getByRole('heading', { name: 'No volumes' }).waitFor();
      await page.goto('/storage');
      await choose('fast', 'Delete');
      await row('fast').waitFor({ state: 'detached' });
    });
    rmSync(directory, { recursive: true, force: true });
  };

  async function choose(name, action) {
    await page.getByRole('button', { name: `More for ${name}` }).click();
    await page.getByRole('menuitem', { name: action }).click();
    await dialog.getByRole('button', { name: action }).click();
    await dialog.waitFor({ state: 'detached' });
  }

  /** The volume can be changed again. */
  async function atRest() {
    await page.waitForFunction(async () => !(await (await fetch('/v1/volumes/data')).json()).status.operation, undefined, { timeout: BOOT_MS, polling: 250 });
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

async function hostOf(page) {
  return page.evaluate(async () => (await (await fetch('/v1/vms/web')).json()).status.host);
}
