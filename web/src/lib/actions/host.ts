// What can be done to a host.
import type { Host } from '../api/types';
import { offered, type Action } from './action';

export function hostActions(host: Host): Action[] {
  const name = host.metadata.name;
  const cordoned = host.spec.cordoned ?? false;
  const base = { path: `/v1/hosts/${name}`, route: '/v1/hosts/{name}' };
  const state: string = host.status?.state ?? 'joining';
  const drained = ((host.status as { maintenance?: string } | undefined)?.maintenance ?? 'off') !== 'off';
  const busy = (host.status as { operation?: string | null } | undefined)?.operation ? 'it is busy' : undefined;
  const unless = (wanted: string) => busy ?? (state === wanted ? undefined : `it is ${state}`);
  const verb = (word: string, label: string, icon: Action['icon'], blocked: string | undefined, ask?: string): Action => ({
    id: word,
    label,
    icon,
    blocked,
    ask,
    cli: `gantry host ${word} ${name}`,
    method: 'POST',
    path: `/v1/hosts/${name}/${word}`,
    route: `/v1/hosts/{name}/${word}`,
    asked: `${label} of ${name} is under way`,
  });
  return offered([
    drained
      ? verb('undrain', 'Undrain', 'check', undefined)
      : verb('drain', 'Drain', 'drain', unless('ready'), `All VMs of ${name} move to other hosts while they run, and it is kept empty.`),
    state === 'sleeping'
      ? verb('wake', 'Wake', 'power', undefined)
      : verb('sleep', 'Sleep', 'moon', unless('ready'), `${name} is emptied and switched off. That it can be woken must have been proved before, by a reboot.`),
    verb('reboot', 'Reboot', 'reboot', unless('ready'), `${name} is emptied, switched off and on again. This also proves that it can be woken.`),
    {
      ...base,
      id: 'cordon',
      label: cordoned ? 'Uncordon' : 'Cordon',
      icon: cordoned ? 'check' : 'cordon',
      cli: `gantry host ${cordoned ? 'uncordon' : 'cordon'} ${name}`,
      method: 'PUT',
      body: { kind: 'host', metadata: { name, labels: host.metadata.labels ?? {} }, spec: { ...host.spec, cordoned: !cordoned } },
      asked: cordoned ? `${name} takes VMs again` : `${name} takes no new VMs`,
    },
    {
      ...base,
      id: 'delete',
      label: 'Forget',
      icon: 'delete',
      danger: true,
      cli: `gantry host delete ${name}`,
      method: 'DELETE',
      ask: `${name} is forgotten and its certificate is worthless from then on. Refused while a VM is on it.`,
      asked: `${name} is forgotten`,
    },
  ]);
}
