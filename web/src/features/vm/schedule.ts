// Snapshots that are taken by themselves, as their dialog has them, and what becomes of them. Pure.
import type { VmSpec } from '$lib/api/types';
import { countFlags, countsDraftOf, countsOf, type CountsDraft } from '../schedule/periods';

export type Schedule = NonNullable<VmSpec['snapshots']>;

export interface ScheduleDraft extends CountsDraft {
  quiesce: boolean;
}

export function scheduleDraftOf(schedule: Schedule | undefined): ScheduleDraft {
  return { ...countsDraftOf(schedule), quiesce: schedule?.quiesce ?? false };
}

export function scheduleOf(draft: ScheduleDraft): Schedule {
  const counts = countsOf(draft);
  return { ...counts, ...(draft.quiesce && countFlags(counts).length > 0 ? { quiesce: true } : {}) };
}

export function scheduleCli(vm: string, draft: ScheduleDraft): string {
  const schedule = scheduleOf(draft);
  const flags = countFlags(schedule);
  if (flags.length === 0) return `gantry snapshot schedule ${vm} --none`;
  return [`gantry snapshot schedule ${vm}`, ...flags, ...(schedule.quiesce ? ['--quiesce'] : [])].join(' ');
}
