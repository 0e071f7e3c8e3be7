// Sizes as the API writes them (`1.5GiB`) and as people read them.
const UNITS: Record<string, number> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  PB: 1e15,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  PiB: 2 ** 50,
};
const SHOWN = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes; `undefined` for what is no size. */
export function parseSize(text: string | number | null | undefined): number | undefined {
  if (typeof text === 'number') return text;
  const match = /^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$/.exec(text ?? '');
  if (!match?.[1]) return undefined;
  const unit = match[2] ? UNITS[match[2]] : 1;
  return unit === undefined ? undefined : Number(match[1]) * unit;
}

export function bytesOf(text: string | number | null | undefined): number {
  return parseSize(text) ?? 0;
}

/** Three significant digits at most: `1.5 GiB`, `256 MiB`. */
export function showSize(size: string | number | null | undefined): string {
  const bytes = parseSize(size);
  if (bytes === undefined) return '–';
  let value = bytes;
  let step = 0;
  while (value >= 1024 && step < SHOWN.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${showNumber(value)} ${SHOWN[step]}`;
}

export function showRate(bytesPerSecond: number | null | undefined): string {
  return bytesPerSecond === null || bytesPerSecond === undefined ? '–' : `${showSize(bytesPerSecond)}/s`;
}

export function showNumber(value: number): string {
  if (value >= 100 || Number.isInteger(value)) return withoutSign(Math.round(value)).toLocaleString('en');
  return value >= 10 ? value.toFixed(1).replace(/\.0$/, '') : value.toFixed(2).replace(/\.?0+$/, '');
}

/** Nothing is not less than nothing. */
function withoutSign(value: number): number {
  return value === 0 ? 0 : value;
}

export function showWatts(watts: number): string {
  const at = watts >= 1e6 ? 2 : watts >= 1e3 ? 1 : 0;
  return `${showNumber(Number((watts / 1e3 ** at).toPrecision(3)))} ${['W', 'kW', 'MW'][at]}`;
}

export function showPercent(value: number | null | undefined): string {
  return value === null || value === undefined ? '–' : `${value >= 10 ? Math.round(value) : Number(value.toFixed(1))} %`;
}
