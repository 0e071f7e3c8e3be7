// What is made by itself, for how many periods one stays, and when the next is due. Pure.
import type { Metadata } from '$lib/api/types';

export const PERIODS = ['hourly', 'daily', 'weekly', 'monthly'] as const;
export type Period = (typeof PERIODS)[number];
export type Counts = Partial<Record<Period, number>>;
export type CountsDraft = Record<Period, string>;

/** A snapshot or a backup. */
export interface Made {
  metadata: Pick<Metadata, 'created_at'>;
  spec: { scheduled?: boolean };
  status?: { taken_at?: string | null };
}

const WORDS: Record<Period, [string, string]> = {
  hourly: ['hour', 'hours'],
  daily: ['day', 'days'],
  weekly: ['week', 'weeks'],
  monthly: ['month', 'months'],
};

export function countsDraftOf(schedule: Counts | null | undefined): CountsDraft {
  const count = (period: Period) => String(schedule?.[period] ?? 0);
  return { hourly: count('hourly'), daily: count('daily'), weekly: count('weekly'), monthly: count('monthly') };
}

export function countsOf(draft: CountsDraft): Counts {
  return Object.fromEntries(PERIODS.map((period) => [period, Number(draft[period])] as const).filter(([, count]) => count > 0));
}

/** As they are typed; none if nothing stays. */
export function countFlags(counts: Counts): string[] {
  return PERIODS.filter((period) => counts[period]).map((period) => `--${period} ${counts[period]}`);
}

/** Which stay: `the newest of each of the last 24 hours and 7 days`; nothing if none are made. */
export function keptWords(schedule: Counts | undefined): string | undefined {
  const parts = PERIODS.filter((period) => schedule?.[period]).map((period) => {
    const count = schedule?.[period] ?? 0;
    return `${count} ${WORDS[period][count === 1 ? 0 : 1]}`;
  });
  if (parts.length === 0) return undefined;
  const last = parts.pop();
  return `the newest of each of the last ${parts.length > 0 ? `${parts.join(', ')} and ` : ''}${last}`;
}

/** When the newest of those that were made by themselves was made. */
export function lastRun(made: readonly Made[]): Date | undefined {
  const taken = made.filter((one) => one.spec.scheduled).map((one) => one.status?.taken_at ?? one.metadata.created_at);
  const moments = taken.filter((at) => at != null).map((at) => Date.parse(at));
  return moments.length > 0 ? new Date(Math.max(...moments)) : undefined;
}

/** When the next one is due: at the first beginning of the shortest period after the last one; at once if there is none. */
export function nextRun(schedule: Counts | undefined, last: Date | undefined): Date | 'now' | undefined {
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
