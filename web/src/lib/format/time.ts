// Ages and durations in words short enough for a table.
const STEPS: [number, string][] = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'min'],
  [1, 's'],
];

/** `12 s`, `5 min`, `3 h`, `4 d`; two parts where one alone would be coarse (`1 h 20 min`). */
export function showSeconds(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const at = STEPS.findIndex(([unit]) => whole >= unit);
  const step = STEPS[at];
  if (!step) return '0 s';
  const [unit, name] = step;
  const count = Math.floor(whole / unit);
  const finer = STEPS[at + 1];
  if (count >= 3 || !finer) return `${count} ${name}`;
  const rest = Math.floor((whole - count * unit) / finer[0]);
  return rest === 0 ? `${count} ${name}` : `${count} ${name} ${rest} ${finer[1]}`;
}

export function showDuration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–';
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1_000).toFixed(1)} s` : showSeconds(ms / 1_000);
}

export function ageSeconds(time: string | null | undefined, now: number): number | undefined {
  const at = time ? Date.parse(time) : NaN;
  return Number.isNaN(at) ? undefined : Math.max(0, (now - at) / 1_000);
}

/** For people, in their own time zone. */
export function showTime(time: string | number): string {
  return new Date(time).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}
