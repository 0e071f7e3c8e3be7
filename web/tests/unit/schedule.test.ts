import { describe, expect, it } from 'vitest';
import type { Snapshot } from '../../src/lib/api/types';
import { backupScheduleCli, backupScheduleDraftOf, backupScheduleOf } from '../../src/features/backup/schedule';
import { keptWords, lastRun, nextRun } from '../../src/features/schedule/periods';
import { scheduleCli, scheduleDraftOf, scheduleOf } from '../../src/features/vm/schedule';

describe('a schedule of snapshots', () => {
  it('becomes its fields and its command, and comes back', () => {
    const draft = { ...scheduleDraftOf(undefined), hourly: '24', daily: '7', quiesce: true };
    expect(scheduleOf(draft)).toEqual({ hourly: 24, daily: 7, quiesce: true });
    expect(scheduleCli('web', draft)).toBe('gantry snapshot schedule web --hourly 24 --daily 7 --quiesce');
    expect(scheduleDraftOf(scheduleOf(draft))).toEqual(draft);
  });

  it('with nothing to keep is none', () => {
    const draft = { ...scheduleDraftOf(undefined), quiesce: true };
    expect(scheduleOf(draft)).toEqual({});
    expect(scheduleCli('web', draft)).toBe('gantry snapshot schedule web --none');
    expect(keptWords({})).toBeUndefined();
  });

  it('says what stays', () => {
    expect(keptWords({ hourly: 24 })).toBe('the newest of each of the last 24 hours');
    expect(keptWords({ hourly: 24, daily: 7, monthly: 1 })).toBe('the newest of each of the last 24 hours, 7 days and 1 month');
  });

  it('is due at the next beginning of its shortest period', () => {
    const last = new Date('2026-02-28T17:40:00Z');
    const next = (schedule: object) => (nextRun(schedule, last) as Date).toISOString();
    expect(next({ hourly: 1, monthly: 1 })).toBe('2026-02-28T18:00:00.000Z');
    expect(next({ daily: 1 })).toBe('2026-03-01T00:00:00.000Z');
    // A Saturday; weeks begin on Mondays.
    expect(next({ weekly: 1 })).toBe('2026-03-02T00:00:00.000Z');
    expect(next({ monthly: 2 })).toBe('2026-03-01T00:00:00.000Z');
    expect((nextRun({ weekly: 1 }, new Date('2026-03-02T00:00:00Z')) as Date).toISOString()).toBe('2026-03-09T00:00:00.000Z');
    expect(nextRun({ daily: 1 }, undefined)).toBe('now');
    expect(nextRun({}, last)).toBeUndefined();
  });

  it('counts from its own snapshots, not from those of people', () => {
    const one = (scheduled: boolean, taken_at: string) => ({ spec: { vm: 'web', scheduled }, metadata: {}, status: { taken_at } }) as unknown as Snapshot;
    expect(lastRun([one(false, '2026-03-01T09:00:00Z')])).toBeUndefined();
    const its = [one(true, '2026-03-01T07:00:00Z'), one(true, '2026-03-01T08:00:00Z'), one(false, '2026-03-01T09:00:00Z')];
    expect(lastRun(its)?.toISOString()).toBe('2026-03-01T08:00:00.000Z');
  });
});

describe('a schedule of backups', () => {
  it('says where, becomes its command, and comes back', () => {
    const draft = { ...backupScheduleDraftOf(undefined, '/srv/backup'), daily: '7', weekly: '4' };
    expect(backupScheduleOf(draft)).toEqual({ repository: '/srv/backup', daily: 7, weekly: 4 });
    expect(backupScheduleCli('web', draft)).toBe('gantry backup schedule web --to /srv/backup --daily 7 --weekly 4');
    expect(backupScheduleDraftOf(backupScheduleOf(draft), '')).toEqual(draft);
    expect(backupScheduleCli('web', { ...draft, quiesce: false })).toBe('gantry backup schedule web --to /srv/backup --daily 7 --weekly 4 --no-quiesce');
  });

  it('that keeps nothing is none', () => {
    const draft = backupScheduleDraftOf(undefined, '/srv/backup');
    expect([backupScheduleOf(draft), backupScheduleCli('web', draft)]).toEqual([undefined, 'gantry backup schedule web --none']);
  });
});
