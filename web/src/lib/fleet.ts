// The datacenter as its first page shows it: hosts in groups, each with the VMs that fill it. Pure, and so tested alone.
import type { Host, Vm, VmPhase } from './api/types';
import { bytesOf } from './format/size';

export type Measure = 'cpu' | 'memory' | 'power';

export interface FleetVm {
  name: string;
  phase: VmPhase;
  cpus: number;
  memoryBytes: number;
  movingTo?: string;
  /** It is on its way to this host and runs elsewhere. */
  arriving?: boolean;
}

export interface FleetHost {
  name: string;
  group: string;
  state: string;
  cordoned: boolean;
  cores: number;
  coresUsed?: number;
  memoryBytes: number;
  memoryUsedBytes?: number;
  watts?: number;
  wattsMax?: number;
  lastSeen?: string | null;
  vms: FleetVm[];
  /** More than are listed. */
  vmsTotal: number;
}

export interface FleetGroup {
  name: string;
  hosts: FleetHost[];
}

/** The label that says where a host stands. */
export const GROUP_LABEL = 'rack';

export function fleetOf(hosts: readonly Host[], vms: readonly Vm[]): FleetGroup[] {
  const byHost = new Map<string, FleetVm[]>();
  for (const vm of vms) {
    const { host, moving_to } = vm.status ?? {};
    const shown: FleetVm = {
      name: vm.metadata.name,
      phase: vm.status?.phase ?? 'pending',
      cpus: vm.spec.cpus,
      memoryBytes: bytesOf(vm.spec.memory),
      movingTo: moving_to ?? undefined,
    };
    if (host) push(byHost, host, shown);
    if (moving_to) push(byHost, moving_to, { ...shown, arriving: true });
  }
  const groups = new Map<string, FleetHost[]>();
  for (const host of hosts) {
    const shown = fleetHost(host, byHost.get(host.metadata.name) ?? []);
    push(groups, shown.group, shown);
  }
  return [...groups].map(([name, members]) => ({ name, hosts: members })).sort((a, b) => a.name.localeCompare(b.name));
}

function fleetHost(host: Host, vms: FleetVm[]): FleetHost {
  const { inventory, metrics, state, last_seen } = host.status ?? {};
  const cores = inventory?.cpu.count ?? 0;
  return {
    name: host.metadata.name,
    group: host.metadata.labels?.[GROUP_LABEL] ?? '',
    state: state ?? 'joining',
    cordoned: host.spec.cordoned ?? false,
    cores,
    coresUsed: metrics ? (metrics.cpu_percent / 100) * cores : undefined,
    memoryBytes: bytesOf(inventory?.memory),
    memoryUsedBytes: metrics ? bytesOf(metrics.memory_used) : undefined,
    lastSeen: last_seen,
    vms,
    vmsTotal: vms.length,
  };
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V) {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

export interface Segment {
  vm: FleetVm;
  /** Of the whole bar, 0–1. */
  share: number;
}

/** How VMs fill a host's bar. A host that is promised more than it has is drawn full, in proportion. */
export function segmentsOf(host: FleetHost, measure: Measure): Segment[] {
  const size = (vm: FleetVm) => (measure === 'memory' ? vm.memoryBytes : vm.cpus);
  const capacity = measure === 'memory' ? host.memoryBytes : host.cores;
  const sum = host.vms.reduce((total, vm) => total + size(vm), 0);
  const whole = Math.max(capacity, sum);
  return whole === 0 ? [] : host.vms.map((vm) => ({ vm, share: size(vm) / whole }));
}
