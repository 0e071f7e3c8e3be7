// Backups that are made by themselves, as their dialog has them, and what becomes of them. Pure.
import type { VmSpec } from '$lib/api/types';
import { quoted } from '$lib/actions/action';
import { countFlags, countsDraftOf, countsOf, type CountsDraft } from '../schedule/periods';

export type BackupSchedule = NonNullable<VmSpec['backups']>;

export interface BackupScheduleDraft extends CountsDraft {
  repository: string;
  quiesce: boolean;
}

export function backupScheduleDraftOf(schedule: BackupSchedule | null | undefined, repository: string): BackupScheduleDraft {
  return { ...countsDraftOf(schedule), repository: schedule?.repository ?? repository, quiesce: schedule?.quiesce ?? true };
}

/** None if nothing stays. */
export function backupScheduleOf(draft: BackupScheduleDraft): BackupSchedule | undefined {
  const counts = countsOf(draft);
  if (countFlags(counts).length === 0) return undefined;
  return { repository: draft.repository.trim(), ...counts, ...(draft.quiesce ? {} : { quiesce: false }) };
}

export function backupScheduleCli(vm: string, draft: BackupScheduleDraft): string {
  const schedule = backupScheduleOf(draft);
  if (!schedule) return `gantry backup schedule ${vm} --none`;
  return [`gantry backup schedule ${vm} --to ${quoted(schedule.repository || 'DIRECTORY')}`, ...countFlags(schedule), ...(draft.quiesce ? [] : ['--no-quiesce'])].join(' ');
}
