// Going back: a VM's recovery points and snapshots, as actions.
import { call } from '../api/client';
import type { Snapshot } from '../api/types';
import { quoted, type Action } from './action';
import { shortName } from './vm';

export function recoverAction(vm: string, how: { to?: string; undo?: boolean }): Action {
  const flags = how.undo ? ' --undo' : how.to ? ` --to ${how.to}` : '';
  return {
    id: how.undo ? 'undo-recover' : 'recover',
    label: how.undo ? 'Undo' : 'Recover',
    icon: 'recover',
    cli: `gantry vm recover ${vm}${flags}`,
    call: call('POST', '/v1/vms/{name}/recover', { params: { path: { name: vm } }, body: how }),
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
    call: call('POST', '/v1/snapshots', {
      body: { kind: 'snapshot', metadata: { name: `${vm}-${name}` }, spec: { vm, memory, quiesce, ...(description ? { description } : {}) } },
    }),
    asked: `The snapshot of ${vm} is being taken`,
  };
}

export function snapshotActions(snapshot: Snapshot): Action[] {
  const { name } = snapshot.metadata;
  const { vm } = snapshot.spec;
  const params = { path: { name } };
  const short = shortName(name, vm);
  const blocked = snapshot.status?.phase === 'ready' ? undefined : `it is ${snapshot.status?.phase ?? 'not ready'}`;
  return [
    {
      id: 'revert',
      label: 'Revert to it',
      icon: 'recover',
      blocked,
      cli: `gantry snapshot revert ${vm} ${short}`,
      call: call('POST', '/v1/snapshots/{name}/revert', { params, body: {} }),
      ask: `${vm} becomes what it was when this was taken. What it is now is kept for a day: Recover, then Undo, brings it back.`,
      asked: `${vm} goes back to ${short}`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry snapshot delete ${vm} ${short}`,
      call: call('DELETE', '/v1/snapshots/{name}', { params }),
      ask: 'This state can’t be gone back to any more. Those that grew from it stay.',
      asked: `Deletion of ${short} is under way`,
    },
  ];
}
