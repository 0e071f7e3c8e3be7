// Backups, as actions. The server decides; what is blocked here only spares a refusal.
import { call } from '../api/client';
import type { Backup } from '../api/types';
import { bytesOf, showSize } from '../format/size';
import type { Action } from './action';
import { shortName } from './vm';

/** What it is called beside its VM. */
export function ownName({ metadata, spec }: Backup): string {
  return shortName(metadata.name, spec.vm);
}

/** As the command line names one: by its moment in UTC, `20270131-021500`. */
export function nameOfMoment(now: Date): string {
  const digits = now.toISOString().replaceAll(/\D/g, '');
  return `${digits.slice(0, 8)}-${digits.slice(8, 14)}`;
}

/** Why nothing can be read from it now. */
export function unreadable({ status }: Backup): string | undefined {
  if (status?.operation) return `it is busy: ${status.operation}`;
  return status?.phase === 'ready' || status?.phase === 'damaged' ? undefined : `it is ${status?.phase ?? 'not ready'}`;
}

export function backupActions(backup: Backup): Action[] {
  const { spec, status } = backup;
  const own = ownName(backup);
  const params = { path: { name: backup.metadata.name } };
  return [
    {
      id: 'verify',
      label: 'Verify',
      icon: 'check',
      blocked: unreadable(backup),
      ask: 'All of it is read and compared with its checksums. What is lost is said then, and a backup that lost something is not restored.',
      cli: `gantry backup verify ${spec.vm} ${own}`,
      call: call('POST', '/v1/backups/{name}/verify', { params }),
      asked: `${own} of ${spec.vm} is being verified`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      blocked: status?.operation ? `it is busy: ${status.operation}` : undefined,
      ask: 'It can’t be restored any more. What other backups have of the same content stays.',
      cli: `gantry backup delete ${spec.vm} ${own}`,
      call: call('DELETE', '/v1/backups/{name}', { params }),
      asked: `Deletion of ${own} of ${spec.vm} is under way`,
    },
  ];
}

export interface Restore {
  /** As it was if empty. */
  name: string;
  /** The one that made the backup if empty. */
  host: string;
  start: boolean;
}

export function restoreAction(backup: Backup, { name, host, start }: Restore): Action {
  const { spec } = backup;
  const flags = `${name ? ` --as ${name}` : ''}${host ? ` --host ${host}` : ''}${start ? '' : ' --no-start'}`;
  return {
    id: 'restore',
    label: 'Restore',
    icon: 'recover',
    blocked: unreadable(backup),
    cli: `gantry backup restore ${spec.vm} ${ownName(backup)}${flags}`,
    call: call('POST', '/v1/backups/{name}/restore', {
      params: { path: { name: backup.metadata.name } },
      body: { ...(name ? { name } : {}), ...(host ? { host } : {}), start },
    }),
    asked: `${name || spec.vm} is being restored`,
  };
}

/** A new volume with what a disk was then. */
export function restoreVolumeAction(backup: Backup, { disk, name, pool }: { disk: string; name: string; pool: string }): Action {
  const { vm } = backup.spec;
  const size = backup.status?.disks?.find((one) => one.name === disk)?.size ?? '';
  return {
    id: 'restore-volume',
    label: 'Restore',
    icon: 'storage',
    blocked: unreadable(backup) ?? (disk ? (pool ? (name ? undefined : 'it needs a name') : 'no pool is chosen') : 'no disk is chosen'),
    cli: `gantry backup restore-volume ${vm} ${disk || 'DISK'} ${ownName(backup)}${name === disk ? '' : ` --as ${name || 'NAME'}`} --pool ${pool || 'POOL'}`,
    call: call('POST', '/v1/volumes', { body: { kind: 'volume', metadata: { name }, spec: { pool, size, backup: { name: backup.metadata.name, disk } } } }),
    asked: `Volume ${name} is being restored`,
  };
}

/** All of its disks together. */
export function sizeOf({ status }: Backup): string {
  return status?.disks?.length ? showSize(status.disks.reduce((sum, disk) => sum + bytesOf(disk.size), 0)) : '–';
}

/** What of it is lost, as it was found when it was last read. */
export function lostWords({ status }: Backup): string[] {
  return (status?.lost ?? []).map(({ disk, offset_bytes, length_bytes, why }) => `${showSize(length_bytes)} of ${disk} from byte ${offset_bytes.toLocaleString('en')} on: ${why}`);
}
