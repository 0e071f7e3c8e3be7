// What is wrong, in words, with the thing to do next. Pure.
import type { Host, Image, ObjectRef, Vm } from './api/types';

export interface Wrong {
  severity: 'critical' | 'warning';
  object: Pick<ObjectRef, 'kind' | 'name'>;
  what: string;
  remedy?: string | null;
  since?: string | null;
}

export function wrongOf(hosts: readonly Host[], vms: readonly Vm[], images: readonly Image[]): Wrong[] {
  const found: Wrong[] = [];
  for (const host of hosts) {
    if (host.status?.state !== 'lost') continue;
    const on = vms.filter((vm) => vm.status?.host === host.metadata.name).length;
    found.push({
      severity: 'critical',
      object: { kind: 'host', name: host.metadata.name },
      what: `Host ${host.metadata.name} does not answer${on === 0 ? '' : `; nobody knows what its ${on === 1 ? 'VM does' : `${on} VMs do`}`}.`,
      remedy: 'Look at its power and its network. When it is back, its VMs are shown as it reports them.',
      since: host.status.last_seen,
    });
  }
  for (const vm of vms) {
    if (vm.status?.phase !== 'failed') continue;
    found.push({
      severity: 'critical',
      object: { kind: 'vm', name: vm.metadata.name },
      what: `VM ${vm.metadata.name} should run and does not${vm.status.reason ? `: ${vm.status.reason}` : ''}.`,
      remedy: 'Start it again; if it fails again, its last operation says why.',
    });
  }
  for (const image of images) {
    if (image.status?.phase !== 'failed') continue;
    found.push({
      severity: 'warning',
      object: { kind: 'image', name: image.metadata.name },
      what: `Image ${image.metadata.name} could not be imported${image.status.reason ? `: ${image.status.reason}` : ''}.`,
      remedy: 'Send its content again.',
    });
  }
  return found.sort((a, b) => rank(a) - rank(b));
}

function rank(wrong: Wrong): number {
  return wrong.severity === 'critical' ? 0 : 1;
}
