// Snapshots that are taken by themselves, as their dialog has them, and what becomes of them. Pure.
import type { Snapshot, VmSpec } from '$lib/api/types';

export type Schedule = NonNullable<VmSpec['snapshots']>;

const PERIODS = ['hourly', 'daily', 'weekly', 'monthly'] as const;
export type Period = (typeof PERIODS)[number];

const WORDS: Record<Period, [string, string]> = {
  hourly: ['hour', 'hours'],
  daily: ['day', 'days'],
  weekly: ['week', 'weeks'],
  monthly: ['month', 'months'],
};

export interface ScheduleDraft extends Record<Period, string> {
  quiesce: boolean;
}

export function scheduleDraftOf(schedule: Schedule | undefined): ScheduleDraft {
  const count = (period: Period) => String(schedule?.[period] ?? 0);
  return { hourly: count('hourly'), daily: count('daily'), weekly: count('weekly'), monthly: count('monthly'), quiesce: schedule?.quiesce ?? false };
}

export function scheduleOf(draft: ScheduleDraft): Schedule {
  const counts = PERIODS.map((period) => [period, Number(draft[period])] as const).filter(([, count]) => count > 0);
  return { ...Object.fromEntries(counts), ...(draft.quiesce && counts.length > 0 ? { quiesce: true } : {}) };
}

export function scheduleCli(vm: string, draft: ScheduleDraft): string {
  const schedule = scheduleOf(draft);
  const flags = PERIODS.filter((period) => schedule[period]).map((period) => `--${period} ${schedule[period]}`);
  if (flags.length === 0) return `gantry snapshot schedule ${vm} --none`;
  return [`gantry snapshot schedule ${vm}`, ...flags, ...(schedule.quiesce ? ['--quiesce'] : [])].join(' ');
}

/** Which snapshots stay: `the newest of each of the last 24 hours and 7 days`; nothing if none are taken. */
export function keptWords(schedule: Schedule | undefined): string | undefined {
  const parts = PERIODS.filter((period) => schedule?.[period]).map((period) => {
    const count = schedule?.[period] ?? 0;
    return `${count} ${WORDS[period][count === 1 ? 0 : 1]}`;
  });
  if (parts.length === 0) return undefined;
  const last = parts.pop();
  return `the newest of each of the last ${parts.length > 0 ? `${parts.join(', ')} and ` : ''}${last}`;
}

/** When the newest of those that were taken by themselves was taken. */
export function lastRun(snapshots: readonly Snapshot[]): Date | undefined {
  const taken = snapshots.filter((one) => one.spec.scheduled).map((one) => one.status?.taken_at ?? one.metadata.created_at);
  const moments = taken.filter((at) => at != null).map((at) => Date.parse(at));
  return moments.length > 0 ? new Date(Math.max(...moments)) : undefined;
}

/** When the next one is due: at the first beginning of the shortest period after the last one; at once if there is none. */
export function nextRun(schedule: Schedule | undefined, last: Date | undefined): Date | 'now' | undefined {
  const shortest = PERIODS.find((period) => schedule?.[period]);
  if (!shortest) return undefined;
  if (!last) return 'now';
  const [year, month, day] = [last.getUTCFullYear(), last.getUTCMonth(), last.getUTCDate()];
  switch (shortest) {
    case 'hourly':
      return new Date(Date.UTC(year, month, day, last.getUTCHours() + 1));
    case 'daily':
      return new Date(Date.UTC(year, month, day + 1));
    case 'weekly':
      // Weeks begin on Mondays; JavaScript's on Sundays.
      return new Date(Date.UTC(year, month, day + 7 - ((last.getUTCDay() + 6) % 7)));
    case 'monthly':
      return new Date(Date.UTC(year, month + 1));
  }
}
