// The datacenter as its first page shows it: hosts in groups, each with the VMs that fill it. Pure, and so tested alone.
import type { VmPhase } from './api/types';
import type { HostBar } from './live/overview.svelte';

export type Measure = 'cpu' | 'memory';

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
  lastSeen?: string | null;
  vms: FleetVm[];
  /** More than are listed. */
  vmsTotal: number;
}

export interface FleetGroup {
  name: string;
  hosts: FleetHost[];
}

/** Where a host stands, as the server groups them by default. */
function placeOf({ site, rack }: Record<string, string>): string {
  return rack && site ? `${site}/${rack}` : (rack ?? '');
}

/** Groups of hosts as bars; a VM that moves is on both of its hosts. */
export function fleetOf(bars: readonly HostBar[]): FleetGroup[] {
  const arriving = new Map<string, FleetVm[]>();
  for (const bar of bars) {
    for (const vm of bar.vms) if (vm.moving_to) push(arriving, vm.moving_to, { ...fleetVm(vm), arriving: true });
  }
  const groups = new Map<string, FleetHost[]>();
  for (const bar of bars) {
    const shown = fleetHost(bar, arriving.get(bar.name) ?? []);
    push(groups, shown.group, shown);
  }
  const order = (a: { name: string }, b: { name: string }) => a.name.localeCompare(b.name, 'en', { numeric: true });
  return [...groups].map(([name, hosts]) => ({ name, hosts: hosts.sort(order) })).sort(order);
}

function fleetVm(vm: HostBar['vms'][number]): FleetVm {
  return { name: vm.name, phase: vm.phase, cpus: vm.cpus, memoryBytes: vm.memory_bytes, movingTo: vm.moving_to ?? undefined };
}

function fleetHost(bar: HostBar, arriving: FleetVm[]): FleetHost {
  const heard = bar.state === 'ready';
  return {
    name: bar.name,
    group: placeOf(bar.labels),
    state: bar.state,
    cordoned: bar.cordoned,
    cores: bar.cpu.capacity_cores,
    coresUsed: heard ? bar.cpu.used_cores : undefined,
    memoryBytes: bar.memory.capacity_bytes,
    memoryUsedBytes: heard ? bar.memory.used_bytes : undefined,
    lastSeen: bar.last_seen,
    // By name, so that a VM keeps its place while others come and go.
    vms: [...bar.vms.map(fleetVm).sort((a, b) => (a.name < b.name ? -1 : 1)), ...arriving],
    vmsTotal: bar.vms_total,
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
