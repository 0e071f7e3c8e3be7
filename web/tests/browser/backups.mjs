// A backup from its dialog to another VM that is made of it; and back to nothing.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { must, mustHaveNoBarriers, picture } from './browser.mjs';
import { BOOT_MS } from './guest.mjs';

export async function backups({ tally, page }) {
  const dialog = page.getByRole('dialog');
  const directory = mkdtempSync(join(tmpdir(), 'gantry-web-backup-'));
  const repository = join(directory, 'repository');

  await tally.test('a VM that runs is backed up, and the next one goes to the same place', async () => {
    await page.goto('/vms/web?tab=backups');
    await page.getByRole('button', { name: 'Back up now' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('monday');
    await dialog.getByLabel('Repository').fill('srv/backup');
    await dialog.getByText('is neither an absolute path').waitFor();
    await dialog.getByLabel('Repository').fill(repository);
    must((await dialog.locator('details pre').first().textContent()) === `gantry backup create web monday --to ${repository}`, 'the command line is not what is done');
    await dialog.getByText('The controller has checked it').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-back-up');
    await dialog.getByRole('button', { name: 'Back up' }).click();
    await row('monday').getByText('ready').waitFor({ timeout: BOOT_MS });

    await page.getByRole('button', { name: 'Back up now' }).click();
    await page.waitForFunction((wanted) => [...document.querySelectorAll('dialog input')].some((input) => input.value === wanted), repository);
    await dialog.getByRole('button', { name: 'Leave it' }).click();
  });

  await tally.test('one is made by itself as soon as a schedule wants it', async () => {
    await page.getByRole('button', { name: 'Make a schedule' }).click();
    await dialog.getByLabel('Days').fill('7');
    must((await dialog.locator('details pre').first().textContent()) === `gantry backup schedule web --to ${repository} --daily 7`, 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-backup-schedule');
    await dialog.getByRole('button', { name: 'Change' }).click();
    await dialog.waitFor({ state: 'detached' });
    await page.getByText('the newest of each of the last 7 days').waitFor();
    await row('auto-').getByText('ready').waitFor({ timeout: BOOT_MS });
    await page.getByText('The last one').waitFor();
    await picture(page, 'wide-light-backups');
    await page.getByRole('button', { name: 'Change schedule' }).click();
    await dialog.getByLabel('Days').fill('0');
    await dialog.getByRole('button', { name: 'Change' }).click();
    await page.getByRole('button', { name: 'Make a schedule' }).waitFor();
  });

  await tally.test('its files are looked through, and one is saved', async () => {
    await page.goto('/backups');
    await choose('Single files');
    await dialog.getByRole('button', { name: 'lost+found/' }).click();
    await dialog.getByText('The directory is empty.').waitFor();
    await dialog.getByRole('button', { name: 'To the directory above' }).click();
    const file = dialog.getByRole('button', { name: 'boots', exact: true });
    await file.waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-backup-files');
    const saving = page.waitForEvent('download');
    await file.click();
    const saved = await saving;
    must(saved.suggestedFilename() === 'boots', saved.suggestedFilename());
    const boots = readFileSync(await saved.path(), 'utf8');
    must(/^\d+\n$/.test(boots), `it says ${boots}`);
    await dialog.locator('footer').getByRole('button', { name: 'Close' }).click();
  });

  await tally.test('it is verified, and restored as another VM', async () => {
    await choose('Verify');
    await dialog.getByRole('button', { name: 'Verify' }).click();
    await row('monday').getByText(/^verified/).waitFor({ timeout: BOOT_MS });
    await choose('Restore');
    await dialog.getByText('A VM of that name has to be deleted first').waitFor();
    await dialog.getByLabel('Name of the VM').fill('again');
    await dialog.getByLabel('Start it at once').uncheck();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry backup restore web monday --as again --no-start', 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-restore');
    await dialog.getByRole('button', { name: 'Restore' }).click();
    await page.waitForURL('**/vms/again');
    await page.locator('header .pill', { hasText: 'stopped' }).waitFor({ timeout: BOOT_MS });
    await page.getByRole('button', { name: 'More for again' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('heading', { name: 'There is no VM again' }).waitFor({ timeout: BOOT_MS });
  });

  await tally.test('a repository is made with a passphrase that nobody sees again, checked, and backed up to', async () => {
    const sealed = join(directory, 'sealed');
    await page.goto('/backups?tab=repositories');
    await page.getByRole('button', { name: 'Add repository' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('vault');
    await dialog.getByRole('textbox', { name: 'Directory' }).fill(sealed);
    await dialog.getByLabel('Passphrase').fill('correct horse battery');
    must((await dialog.locator('details pre').first().textContent()) === `gantry repository create vault --path ${sealed} --passphrase-file FILE`, 'the command line is not what is done');
    must(!(await dialog.innerText()).includes('correct horse'), 'the passphrase is shown');
    await dialog.getByText('The controller has checked it').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-repository');
    await dialog.getByRole('button', { name: 'Add repository' }).click();
    await dialog.waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'More for vault' }).click();
    await page.getByRole('menuitem', { name: 'Check' }).click();
    await dialog.getByRole('button', { name: 'Check', exact: true }).click();
    await dialog.getByText('It is there, with 0 backups.').waitFor();
    await mustHaveNoBarriers(page);
    await dialog.getByRole('button', { name: 'Done' }).click();
    await page.getByRole('button', { name: 'More for vault' }).click();
    await page.getByRole('menuitem', { name: 'Adopt backups' }).click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry repository adopt vault', 'the command line is not what is done');
    await dialog.getByRole('button', { name: 'Adopt', exact: true }).click();
    await dialog.getByText('0 backups adopted').waitFor();
    await mustHaveNoBarriers(page);
    await dialog.getByRole('button', { name: 'Done' }).click();
    const shown = await page.evaluate(async () => (await fetch('/v1/repositories/vault')).text());
    must(!shown.includes('correct horse') && shown.includes('"encrypted":true'), shown);
    await page.goto('/vms/web?tab=backups');
    await page.getByRole('button', { name: 'Back up now' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('sealed');
    await dialog.getByLabel('Repository').fill('vault');
    await dialog.getByText('The controller has checked it').waitFor();
    await dialog.getByRole('button', { name: 'Back up' }).click();
    await row('sealed').getByText('ready').waitFor({ timeout: BOOT_MS });
  });

  /** Once all pages have been looked at. */
  return async () => {
    await tally.test('the backups are deleted again', async () => {
      await page.goto('/backups');
      for (const which of ['web-monday', 'web-auto-', 'web-sealed']) {
        await page.getByRole('button', { name: `More for ${which}` }).click();
        await page.getByRole('menuitem', { name: 'Delete' }).click();
        await dialog.getByRole('button', { name: 'Delete' }).click();
        await page.getByRole('button', { name: `More for ${which}` }).waitFor({ state: 'detached', timeout: BOOT_MS });
      }
      await page.getByRole('heading', { name: 'No backups' }).waitFor({ timeout: BOOT_MS });
      await page.goto('/backups?tab=repositories');
      await page.getByRole('button', { name: 'More for vault' }).click();
      await page.getByRole('menuitem', { name: 'Forget' }).click();
      await dialog.getByRole('button', { name: 'Forget' }).click();
      await page.getByRole('heading', { name: 'No repositories' }).waitFor({ timeout: BOOT_MS });
    });
    rmSync(directory, { recursive: true, force: true });
  };

  async function choose(action) {
    await page.getByRole('button', { name: 'More for web-monday' }).click();
    await page.getByRole('menuitem', { name: action, exact: true }).click();
  }

  function row(text) {
    return page.getByRole('row').filter({ hasText: text });
  }
}
