// Tests that need a guest at work: its consoles, its move, and a way back after it was broken.
import { must, mustHaveNoBarriers, picture } from './browser.mjs';

/** Guests boot under emulation, on a machine that does other things. */
export const BOOT_MS = 120_000;

export async function consoles({ tally, page }) {
  await tally.vital('its serial console is opened and typed into', async () => {
    await openConsole(page);
    await says(page, 'echo gantry-$((6*7))', 'gantry-42');
    await picture(page, 'wide-light-console');
  });

  await tally.test('its screen shows what the guest draws', async () => {
    await page.getByText('Screen', { exact: true }).click();
    await page.locator('[data-console=open] canvas').waitFor();
    await page.waitForFunction(() => {
      const canvas = document.querySelector('[data-console=open] canvas');
      const { width, height } = canvas;
      if (width < 300 || height < 200) return false;
      const bytes = canvas.getContext('2d').getImageData(0, 0, width, height).data;
      return bytes.some((value, at) => at % 4 !== 3 && value > 60);
    });
    await picture(page, 'wide-light-screen');
    await page.getByText('Serial', { exact: true }).click();
  });
}

export async function move({ tally, page, context }) {
  await tally.test('it is moved, and seen to move', async () => {
    const overview = await context.newPage();
    await overview.goto('/');
    const home = await hostOf(overview, 'web');
    await overview.evaluate(() => {
      globalThis.arrivals = 0;
      new MutationObserver(() => {
        globalThis.arrivals += document.querySelectorAll('.arriving[data-vm=web]').length;
      }).observe(document.body, { childList: true, subtree: true, attributes: true });
    });
    await page.goto('/vms/web');
    // A move of a second may be over before it is drawn.
    must((await limitMoves(page, 10)) === 200, 'its moves can\'t be limited');
    await page.getByRole('button', { name: 'Move', exact: true }).click();
    const target = home === 'host-1' ? 'host-2' : 'host-1';
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('To').selectOption(target);
    must((await dialog.locator('pre').first().textContent()) === `gantry vm migrate web --to ${target}`, 'the command line is not what is done');
    await dialog.getByRole('button', { name: 'Move' }).click();
    // A page in the background is drawn only now and then.
    await overview.bringToFront();
    await overview.locator(`[data-host=${target}] [data-vm=web]:not(.arriving)`).waitFor({ timeout: BOOT_MS });
    must((await overview.evaluate(() => globalThis.arrivals)) > 0, 'it was never seen on its way');
    await picture(overview, 'wide-light-datacenter-moved');
    await overview.close();
    await page.bringToFront();
    await page.locator('dl div', { hasText: 'Last move' }).getByText(`→ ${target}`).waitFor({ timeout: BOOT_MS });
  });
}

/** By the API: no dialog has it. Answers with the status. */
function limitMoves(page, mibPerS) {
  return page.evaluate(async (limit) => {
    const { csrf_token } = await (await fetch('/v1/session')).json();
    const { kind, metadata: { name, labels }, spec } = await (await fetch('/v1/vms/web')).json();
    const body = JSON.stringify({ kind, metadata: { name, labels: labels ?? {} }, spec: { ...spec, migration: { ...spec.migration, bandwidth_mib_per_s: limit } } });
    const answer = await fetch('/v1/vms/web', { method: 'PUT', headers: { 'Content-Type': 'application/json', 'X-Gantry-Csrf': csrf_token }, body });
    return answer.status;
  }, mibPerS);
}

/** Something precious on the disk. Good states are kept from the next start or move on. */
export async function prepareRecovery({ tally, page }) {
  await tally.vital('its owner keeps something precious in it', async () => {
    await openConsole(page);
    await says(page, 'echo "still here" > /data/precious; sync; echo k""ept', 'kept');
  });
}

export async function recovery({ tally, page }) {
  await tally.vital('a broken VM is brought back by one button', async () => {
    await page.goto('/vms/web?tab=snapshots');
    await page.getByText('good', { exact: true }).first().waitFor({ timeout: BOOT_MS });
    await openConsole(page);
    await says(page, 'rm -f /data/precious; sync; echo br""oken', 'broken');
    await page.goto('/my');
    await page.getByRole('button', { name: 'Recover' }).click();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-recover');
    const asked = Date.now();
    await page.getByRole('dialog').getByRole('button', { name: 'Recover' }).click();
    await answersSince(page, asked);
    await openConsole(page);
    await says(page, 'cat /data/precious', 'still here');
  });

  await tally.test('and the recovery is undone by another', async () => {
    await page.goto('/my');
    const asked = Date.now();
    await page.getByRole('button', { name: 'Undo' }).click();
    await answersSince(page, asked);
    await openConsole(page);
    await says(page, 'cat /data/precious || echo g""one', 'gone');
  });
}

/** The guest that was started after that moment answers. */
async function answersSince(page, asked) {
  await page.waitForFunction(
    async (since) => {
      const { status } = await (await fetch('/v1/vms/web')).json();
      return status.phase === 'running' && status.ready && !status.operation && Date.parse(status.started_at) > since;
    },
    asked,
    { timeout: BOOT_MS, polling: 500 },
  );
}

async function openConsole(page) {
  await page.goto('/vms/web?tab=console');
  await page.locator('[data-console=open] .xterm-helper-textarea').waitFor({ state: 'attached', timeout: BOOT_MS });
}

async function hostOf(overview, vm) {
  const bar = overview.locator(`[data-host]:has([data-vm=${vm}])`);
  await bar.waitFor();
  return bar.getAttribute('data-host');
}

/** Types a line that may be repeated until the guest answers: who has just started hears nothing for a while. */
async function says(page, line, answer) {
  const heard = page.locator('.xterm-rows').getByText(answer).first();
  const until = Date.now() + BOOT_MS;
  for (;;) {
    // A console that connects anew meanwhile has let the focus go, and a slash on the page searches.
    if (await page.getByRole('dialog').isVisible()) await page.keyboard.press('Escape');
    await page.locator('.xterm-helper-textarea').focus();
    // What was left half typed must not be a part of it.
    await page.keyboard.press('Control+c');
    await page.keyboard.type(`${line}\n`);
    const answered = await heard.waitFor({ timeout: 5_000 }).then(
      () => true,
      () => false,
    );
    if (answered) return;
    must(Date.now() < until, `the guest did not answer '${line}' by '${answer}'`);
  }
}
