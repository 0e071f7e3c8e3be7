import { describe, expect, it } from 'vitest';
import { nameFrom } from '../../src/lib/upload';
import { quoted } from '../../src/lib/actions/action';
import { parseSize, showPercent, showSize, showWatts } from '../../src/lib/format/size';
import { ageSeconds, showDuration, showSeconds } from '../../src/lib/format/time';

describe('sizes', () => {
  it('are read as the API writes them', () => {
    expect(parseSize('1.5GiB')).toBe(1.5 * 2 ** 30);
    expect(parseSize('10GB')).toBe(1e10);
    expect(parseSize('268435456')).toBe(268435456);
    expect(parseSize('much')).toBeUndefined();
    expect(parseSize('3 parsecs')).toBeUndefined();
  });

  it('are shown short', () => {
    expect(showSize('268435456B')).toBe('256 MiB');
    expect(showSize(1.5 * 2 ** 30)).toBe('1.5 GiB');
    expect([0, -0].map(showSize)).toEqual(['0 B', '0 B']);
    expect(showSize(undefined)).toBe('–');
    expect([92, 1_234, 2_600_000].map(showWatts)).toEqual(['92 W', '1.23 kW', '2.6 MW']);
    expect(showPercent(0.04)).toBe('0 %');
    expect(showPercent(99.6)).toBe('100 %');
  });
});

describe('times', () => {
  it('are shown in the coarsest unit that says enough', () => {
    expect(showSeconds(0)).toBe('0 s');
    expect(showSeconds(59)).toBe('59 s');
    expect(showSeconds(80)).toBe('1 min 20 s');
    expect(showSeconds(3 * 3600 + 1200)).toBe('3 h');
    expect(showDuration(250)).toBe('250 ms');
    expect(showDuration(2345)).toBe('2.3 s');
  });

  it('never give a negative or an invented age', () => {
    expect(ageSeconds('2026-01-01T00:00:10Z', Date.parse('2026-01-01T00:00:05Z'))).toBe(0);
    expect(ageSeconds(undefined, 0)).toBeUndefined();
    expect(ageSeconds('soon', 0)).toBeUndefined();
  });
});

describe('words of a shell', () => {
  it('are quoted if they must be', () => {
    expect(quoted('web-1')).toBe('web-1');
    expect(quoted('')).toBe("''");
    expect(quoted('a b')).toBe("'a b'");
    expect(quoted("it's; rm -rf /")).toBe("'it'\\''s; rm -rf /'");
  });
});

describe('an image’s name', () => {
  it('comes from the file’s', () => {
    expect(nameFrom('Debian 12 (generic).qcow2')).toBe('debian-12-generic');
    expect(nameFrom('guest.raw.xz')).toBe('guest');
    expect(nameFrom('---.img')).toBe('');
  });
});
