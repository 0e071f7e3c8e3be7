// What can be done to a VM in its phase, after docs/objects.md. The server decides; this only spares a refusal.
import { call } from '../api/client';
import type { Vm, VmSpec } from '../api/types';
import { quoted, unlessWishesChanged, type Action } from './action';

const AT_WORK = ['running', 'paused', 'migrating'];
const DOWN = ['pending', 'stopped', 'failed'];

export function isDown(vm: Vm): boolean {
  return DOWN.includes(vm.status?.phase ?? 'pending');
}

export function vmActions(vm: Vm): Action[] {
  const name = vm.metadata.name;
  const phase = vm.status?.phase ?? 'pending';
  if (phase === 'deleting') return [];
  const busy = vm.status?.operation ? `it is busy: ${vm.status.operation}` : undefined;
  const unless = (phases: string[], words = `it is ${phase}`) => busy ?? (phases.includes(phase) ? undefined : words);
  const params = { path: { name } };
  const asked = (label: string) => `${label} of ${name} is under way`;
  return [
    { id: 'start', label: 'Start', icon: 'start', blocked: unless(DOWN), cli: `gantry vm start ${name}`, call: call('POST', '/v1/vms/{name}/start', { params }), asked: asked('Start') },
    {
      id: 'stop',
      label: 'Stop',
      icon: 'stop',
      blocked: unless([...AT_WORK, 'unknown']),
      ask: `The guest of ${name} is asked to shut down and has 60 s for it; after that it is cut off.`,
      cli: `gantry vm stop ${name}`,
      call: call('POST', '/v1/vms/{name}/stop', { params, body: {} }),
      asked: asked('Stop'),
    },
    {
      id: 'reboot',
      label: 'Reboot',
      icon: 'reboot',
      blocked: unless(['running']),
      ask: `The guest of ${name} is asked to start anew. What it serves is away meanwhile.`,
      cli: `gantry vm reboot ${name}`,
      call: call('POST', '/v1/vms/{name}/reboot', { params, body: {} }),
      asked: asked('Reboot'),
    },
    { id: 'pause', label: 'Pause', icon: 'pause', blocked: unless(['running']), cli: `gantry vm pause ${name}`, call: call('POST', '/v1/vms/{name}/pause', { params }), asked: asked('Pause') },
    { id: 'resume', label: 'Resume', icon: 'start', blocked: unless(['paused']), cli: `gantry vm resume ${name}`, call: call('POST', '/v1/vms/{name}/resume', { params }), asked: asked('Resume') },
    {
      id: 'cut-off',
      label: 'Cut off',
      icon: 'power',
      danger: true,
      blocked: phase === 'stopping' ? undefined : unless([...AT_WORK, 'unknown']),
      ask: `${name} loses its power at once, as if a plug were pulled. What its guest had not written to disk is lost.`,
      cli: `gantry vm stop ${name} --force`,
      call: call('POST', '/v1/vms/{name}/stop', { params, body: { force: true } }),
      asked: asked('Cut-off'),
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      ask: `${name} ends and its disk is deleted. This can't be undone.`,
      cli: `gantry vm delete ${name}`,
      call: call('DELETE', '/v1/vms/{name}', { params }),
      asked: asked('Deletion'),
    },
  ];
}

export function migrateAction(name: string, to: string): Action {
  return {
    id: 'migrate',
    label: 'Move',
    icon: 'move',
    cli: `gantry vm migrate ${name}${to ? ` --to ${to}` : ''}`,
    call: call('POST', '/v1/vms/{name}/migrate', { params: { path: { name } }, body: to ? { to } : {} }),
    asked: to ? `${name} is moving to ${to}` : `${name} is moving`,
  };
}

/** Of the VM's own disk. */
export function moveDiskAction(name: string, pool: string): Action {
  return {
    id: 'move-disk',
    label: 'Move disk',
    icon: 'move',
    blocked: pool ? undefined : 'no pool is chosen',
    cli: `gantry vm migrate ${name} --pool ${pool || 'POOL'}`,
    call: call('POST', '/v1/vms/{name}/migrate', { params: { path: { name } }, body: { pool } }),
    asked: `The disk of ${name} is moving to ${pool}`,
  };
}

/** `snapshot` by the name of its object; what the disk holds at this instant if it is empty. */
export function cloneAction(source: string, name: string, start: boolean, host: string, snapshot = ''): Action {
  return {
    id: 'clone',
    label: 'Clone',
    icon: 'copy',
    blocked: name ? undefined : 'it needs a name',
    cli: ['gantry vm clone', source, quoted(name || 'NAME'), ...(snapshot ? [`--snapshot ${shortName(snapshot, source)}`] : []), ...(host ? [`--host ${host}`] : []), ...(start ? [] : ['--stopped'])].join(' '),
    call: call('POST', '/v1/vms/{name}/clone', {
      params: { path: { name: source } },
      body: { name, ...(snapshot ? { snapshot } : {}), ...(host ? { host } : {}), ...(start ? {} : { stopped: true }) },
    }),
    asked: `${source} is being cloned as ${name}`,
  };
}

/** As command lines call a snapshot. */
export function shortName(snapshot: string, vm: string): string {
  return snapshot.startsWith(`${vm}-`) ? snapshot.slice(vm.length + 1) : snapshot;
}

/** From the VM as it was when somebody began to edit: another's change meanwhile is refused, not overwritten. */
export function changeAction(before: Vm, now: Vm, change: Partial<VmSpec>, words: Pick<Action, 'icon' | 'cli' | 'asked'>): Action {
  const { kind, metadata, spec } = unlessWishesChanged(before, now);
  const { name, labels, revision } = metadata;
  const changed = call('PUT', '/v1/vms/{name}', { params: { path: { name } }, body: { kind, metadata: { name, labels: labels ?? {}, revision }, spec: { ...spec, ...change } } });
  return { id: 'change', label: 'Change', call: changed, ...words };
}
