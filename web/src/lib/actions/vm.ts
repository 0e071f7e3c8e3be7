// What can be done to a VM in its phase, after docs/objects.md. The server decides; this only spares a refusal.
import type { Vm } from '../api/types';
import { offered, type Action } from './action';

type Verb = 'start' | 'stop' | 'reboot' | 'pause' | 'resume';

const AT_WORK = ['running', 'paused', 'migrating'];
const DOWN = ['pending', 'stopped', 'failed'];

export function vmActions(vm: Vm): Action[] {
  const name = vm.metadata.name;
  const phase = vm.status?.phase ?? 'pending';
  const busy = vm.status?.operation ? `it is busy: ${vm.status.operation}` : undefined;
  const unless = (phases: string[], words: string) => busy ?? (phases.includes(phase) ? undefined : words);
  const verb = (word: Verb, label: string, icon: Action['icon'], blocked: string | undefined, body?: object): Action => ({
    id: word,
    label,
    icon,
    blocked,
    cli: `gantry vm ${word} ${name}`,
    method: 'POST',
    path: `/v1/vms/${name}/${word}`,
    route: `/v1/vms/{name}/${word}`,
    body,
    asked: `${label} of ${name} is under way`,
  });
  const gone = phase === 'deleting';
  const actions: Action[] = gone
    ? []
    : [
        verb('start', 'Start', 'start', unless(DOWN, `it is ${phase}`)),
        { ...verb('stop', 'Stop', 'stop', unless([...AT_WORK, 'unknown'], `it is ${phase}`)), ask: `The guest of ${name} is asked to shut down and has 60 s for it; after that it is cut off.` },
        { ...verb('reboot', 'Reboot', 'reboot', unless(['running'], `it is ${phase}`)), ask: `The guest of ${name} is asked to start anew. What it serves is away meanwhile.` },
        verb('pause', 'Pause', 'pause', unless(['running'], `it is ${phase}`)),
        verb('resume', 'Resume', 'start', unless(['paused'], `it is ${phase}`)),
        {
          ...verb('stop', 'Cut off', 'power', phase === 'stopping' ? undefined : unless([...AT_WORK, 'unknown'], `it is ${phase}`), { force: true }),
          id: 'cut-off',
          danger: true,
          cli: `gantry vm stop ${name} --force`,
          ask: `${name} loses its power at once, as if a plug were pulled. What its guest had not written to disk is lost.`,
        },
        {
          id: 'delete',
          label: 'Delete',
          icon: 'delete',
          danger: true,
          cli: `gantry vm delete ${name}`,
          method: 'DELETE',
          path: `/v1/vms/${name}`,
          route: '/v1/vms/{name}',
          ask: `${name} ends and its disk is deleted. This can't be undone.`,
          asked: `Deletion of ${name} is under way`,
        },
      ];
  return offered(actions);
}

export function migrateAction(name: string, to: string): Action {
  return {
    id: 'migrate',
    label: 'Move',
    icon: 'move',
    cli: `gantry vm migrate ${name}${to ? ` --to ${to}` : ''}`,
    method: 'POST',
    path: `/v1/vms/${name}/migrate`,
    route: '/v1/vms/{name}/migrate',
    body: to ? { to } : {},
    asked: to ? `${name} is moving to ${to}` : `${name} is moving`,
  };
}
