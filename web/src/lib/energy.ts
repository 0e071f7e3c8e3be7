// Energy in words. Pure.
import { showNumber } from './format/size';

export function showEnergy(wh: number): string {
  if (wh >= 1e6) return `${showNumber(wh / 1e6)} MWh`;
  return wh >= 1_000 ? `${showNumber(wh / 1_000)} kWh` : `${showNumber(Number(wh.toFixed(2)))} Wh`;
}

export const SPANS = [
  { value: '24h', text: 'Day', ms: 86_400_000 },
  { value: '7d', text: 'Week', ms: 7 * 86_400_000 },
  { value: '35d', text: '35 days', ms: 35 * 86_400_000 },
] as const;

const HOUR_MS = 3_600_000;

/** The hour in which a span that ends now began. */
export function sinceOf(span: string, now: number): string {
  const ms = (SPANS.find(({ value }) => value === span) ?? SPANS[0]).ms;
  return new Date(Math.floor((now - ms) / HOUR_MS) * HOUR_MS).toISOString();
}
