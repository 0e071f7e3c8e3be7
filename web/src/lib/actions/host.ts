// What can be done to a host.
import { call } from '../api/client';
import type { Host } from '../api/types';
import { quoted, type Action } from './action';

export function hostActions(host: Host): Action[] {
  const name = host.metadata.name;
  const params = { path: { name } };
  const cordoned = host.spec.cordoned;
  const state = host.status?.state ?? 'joining';
  const drained = (host.status?.maintenance ?? 'off') !== 'off';
  const busy = host.status?.operation ? 'it is busy' : undefined;
  const unless = (wanted: string) => busy ?? (state === wanted ? undefined : `it is ${state}`);
  const asked = (label: string) => `${label} of ${name} is under way`;
  return [
    drained
      ? { id: 'undrain', label: 'Undrain', icon: 'check', cli: `gantry host undrain ${name}`, call: call('POST', '/v1/hosts/{name}/undrain', { params }), asked: `${name} takes VMs again` }
      : {
          id: 'drain',
          label: 'Drain',
          icon: 'drain',
          blocked: unless('ready'),
          ask: `All VMs of ${name} move to other hosts while they run, and it is kept empty.`,
          cli: `gantry host drain ${name}`,
          call: call('POST', '/v1/hosts/{name}/drain', { params }),
          asked: asked('Drain'),
        },
    state === 'sleeping'
      ? { id: 'wake', label: 'Wake', icon: 'power', blocked: busy, cli: `gantry host wake ${name}`, call: call('POST', '/v1/hosts/{name}/wake', { params }), asked: asked('Waking') }
      : {
          id: 'sleep',
          label: 'Sleep',
          icon: 'moon',
          blocked: unless('ready'),
          ask: `${name} is emptied and switched off. That it can be woken must have been proved before, by a reboot.`,
          cli: `gantry host sleep ${name}`,
          call: call('POST', '/v1/hosts/{name}/sleep', { params }),
          asked: asked('Sleep'),
        },
    {
      id: 'reboot',
      label: 'Reboot',
      icon: 'reboot',
      blocked: unless('ready'),
      ask: `${name} is emptied, switched off and on again. This also proves that it can be woken.`,
      cli: `gantry host reboot ${name}`,
      call: call('POST', '/v1/hosts/{name}/reboot', { params }),
      asked: asked('Reboot'),
    },
    {
      id: 'cordon',
      label: cordoned ? 'Uncordon' : 'Cordon',
      icon: cordoned ? 'check' : 'cordon',
      cli: `gantry host ${cordoned ? 'uncordon' : 'cordon'} ${name}`,
      call: call('PUT', '/v1/hosts/{name}', {
        params,
        body: { kind: 'host', metadata: { name, labels: host.metadata.labels ?? {} }, spec: { ...host.spec, cordoned: !cordoned } },
      }),
      asked: cordoned ? `${name} takes VMs again` : `${name} takes no new VMs`,
    },
    {
      id: 'delete',
      label: 'Forget',
      icon: 'delete',
      danger: true,
      ask: `${name} is forgotten and its certificate is worthless from then on. Refused while a VM is on it.`,
      cli: `gantry host delete ${name}`,
      call: call('DELETE', '/v1/hosts/{name}', { params }),
      asked: `${name} is forgotten`,
    },
  ];
}

export function fenceAction(name: string, why: string): Action {
  return {
    id: 'fence',
    label: 'Fence',
    icon: 'alert',
    danger: true,
    blocked: why ? undefined : 'say why',
    ask: `${name} is shut out: its protected VMs are stopped there and start elsewhere, once nothing of them runs on it for certain. It is switched off if it can be, and let in again by itself when it is back and clean.`,
    cli: `gantry host fence ${name} --why ${quoted(why)}`,
    call: call('POST', '/v1/hosts/{name}/fence', { params: { path: { name } }, body: { why } }),
    asked: `${name} is being shut out`,
  };
}

const PROOFS = { power_off: 'its power is off', lease_over: 'its lease is over', acknowledged: 'it said so itself' };

/** How it is shut out, in words; nothing if it is not. */
export function fenceWords(host: Host): string | undefined {
  const fence = host.status?.fence;
  if (!fence) return undefined;
  const proof = fence.proof ? `nothing protected runs there: ${PROOFS[fence.proof.kind]}` : 'waiting for proof that nothing protected runs there';
  return `by ${fence.record.by}, ${fence.record.why}; ${proof}`;
}
