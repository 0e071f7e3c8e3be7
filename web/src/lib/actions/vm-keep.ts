// Going back: a VM's recovery points and snapshots, as actions. Shapes after docs/storage.md.
import type { Metadata, Vm } from '../api/types';
import { offered, quoted, type Action } from './action';

export interface RecoveryPoint {
  name: string;
  /** Good: kept while all was well. Replaced: what a recovery or revert took the place of. */
  kind: 'good' | 'replaced';
  taken_at: string;
  expires_at?: string | null;
}

export interface Snapshot {
  kind: 'snapshot';
  metadata: Metadata;
  spec: { vm: string; memory?: boolean; quiesce?: boolean; description?: string | null };
  status?: {
    phase?: string;
    parent?: string | null;
    taken_at?: string | null;
    memory_size?: string | null;
    pause_ms?: number | null;
    reason?: string | null;
  };
}

export function recoveryPoints(vm: Vm): RecoveryPoint[] {
  return (vm.status as { recovery_points?: RecoveryPoint[] } | undefined)?.recovery_points ?? [];
}

/** The snapshot that the disk's present content grew from. */
export function grewFrom(vm: Vm): string | undefined {
  return (vm.status as { snapshot?: string } | undefined)?.snapshot;
}

export function recoverAction(vm: string, how: { to?: string; undo?: boolean }): Action {
  const flags = how.undo ? ' --undo' : how.to ? ` --to ${how.to}` : '';
  return {
    id: how.undo ? 'undo-recover' : 'recover',
    label: how.undo ? 'Undo' : 'Recover',
    icon: 'recover',
    cli: `gantry vm recover ${vm}${flags}`,
    method: 'POST',
    path: `/v1/vms/${vm}/recover`,
    route: '/v1/vms/{name}/recover',
    body: how,
    asked: how.undo ? `${vm} goes back to what it was before` : `${vm} is being recovered`,
  };
}

export function takeSnapshot(vm: string, name: string, memory: boolean, quiesce: boolean, description: string): Action {
  const flags = `${memory ? ' --memory' : ''}${quiesce ? ' --quiesce' : ''}${description ? ` --description ${quoted(description)}` : ''}`;
  return {
    id: 'snapshot',
    label: 'Take snapshot',
    icon: 'snapshot',
    cli: `gantry snapshot create ${vm} ${name || 'NAME'}${flags}`,
    method: 'POST',
    path: '/v1/snapshots',
    route: '/v1/snapshots',
    body: {
      kind: 'snapshot',
      metadata: { name: `${vm}-${name}` },
      spec: { vm, memory, quiesce, ...(description ? { description } : {}) },
    },
    asked: `The snapshot of ${vm} is being taken`,
  };
}

export function snapshotActions(snapshot: Snapshot): Action[] {
  const { name } = snapshot.metadata;
  const { vm } = snapshot.spec;
  const short = name.startsWith(`${vm}-`) ? name.slice(vm.length + 1) : name;
  const blocked = snapshot.status?.phase === 'ready' ? undefined : `it is ${snapshot.status?.phase ?? 'not ready'}`;
  return offered([
    {
      id: 'revert',
      label: 'Revert to it',
      icon: 'recover',
      blocked,
      cli: `gantry snapshot revert ${vm} ${short}`,
      method: 'POST',
      path: `/v1/snapshots/${name}/revert`,
      route: '/v1/snapshots/{name}/revert',
      body: {},
      ask: `${vm} becomes what it was when this was taken. What it is now is kept for a day: Recover, then Undo, brings it back.`,
      asked: `${vm} goes back to ${short}`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry snapshot delete ${vm} ${short}`,
      method: 'DELETE',
      path: `/v1/snapshots/${name}`,
      route: '/v1/snapshots/{name}',
      ask: 'This state can’t be gone back to any more. Those that grew from it stay.',
      asked: `Deletion of ${short} is under way`,
    },
  ]);
}
