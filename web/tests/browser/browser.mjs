// The real browser (Debian's chromium), what is looked at in every page, and the tally of what passed.
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const pictures = process.env.GANTRY_SCREENSHOTS ?? new URL('../../../target/web-screenshots/', import.meta.url).pathname;

export const WIDE = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };
/** For what needs no guest. */
export const SOON_MS = 30_000;

const LEVELS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];

export async function launch() {
  mkdirSync(pictures, { recursive: true });
  return chromium.launch({
    executablePath: process.env.GANTRY_CHROMIUM ?? '/usr/bin/chromium',
    // Tests run as root in a container, where the browser's own sandbox and /dev/shm can't be relied on.
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
  });
}

/** A page, and everything it complained of. */
export async function openPage(browser, { viewport = WIDE, colorScheme = 'light', baseURL, storageState } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, baseURL, storageState, ignoreHTTPSErrors: true, reducedMotion: 'no-preference' });
  const page = await context.newPage();
  page.setDefaultTimeout(SOON_MS);
  return { page, context, complaints: listen(page) };
}

/** What the server refused the page itself tells; of that the browser's note is no fault. */
function listen(page) {
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && !/Failed to load resource|net::ERR|WebSocket connection to .* failed/.test(message.text())) complaints.push(message.text());
  });
  return complaints;
}

export async function picture(page, name) {
  await page.screenshot({ path: `${pictures}/${name}.png`, animations: 'disabled' });
}

/** What axe finds against WCAG 2.2 AA, one line each; with `rules` only against these. */
export async function barriers(page, rules) {
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axe);
  // A colour on its way to another is nobody's choice.
  await page.evaluate(() => {
    const ends = (animation) => Number.isFinite(animation.effect?.getComputedTiming().endTime);
    return Promise.all(document.getAnimations().filter(ends).map((animation) => animation.finished.catch(() => undefined)));
  });
  const only = rules ? { type: 'rule', values: rules } : { type: 'tag', values: LEVELS };
  const violations = await page.evaluate(async (runOnly) => {
    const { violations } = await globalThis.axe.run(document, { runOnly, resultTypes: ['violations'] });
    return violations;
  }, only);
  return violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 3).map((node) => `      ${node.html.slice(0, 160)} ${node.any[0]?.message ?? ''}`).join('\n')}`);
}

export async function mustHaveNoBarriers(page) {
  const found = await barriers(page);
  must(found.length === 0, found.join('\n'));
}

export class Tally {
  passed = 0;
  failed = 0;

  /** Ends the run: what comes after stands on it. */
  async vital(name, body) {
    if (await this.test(name, body)) return;
    this.end();
  }

  /** A named test; the others go on if it fails. */
  async test(name, body) {
    const began = performance.now();
    try {
      await body();
      this.passed += 1;
      console.log(`  ok   ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
      return true;
    } catch (error) {
      this.failed += 1;
      console.log(`  FAIL ${name}\n       ${String(error?.stack ?? error).replaceAll('\n', '\n       ')}`);
      await this.onfailure?.(name).catch(() => {});
      return false;
    }
  }

  end() {
    console.log(`${this.passed} passed, ${this.failed} failed`);
    // A test that failed may have left something open.
    process.exit(this.failed > 0 ? 1 : 0);
  }
}

export function must(condition, message) {
  if (!condition) throw new Error(message);
}
