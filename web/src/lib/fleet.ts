// A host as the first page shows it: a bar that its VMs fill. Pure, and so tested alone.
import type { VmPhase } from './api/types';
import type { HostBar } from './live/overview.svelte';

export type Measure = 'cpu' | 'memory' | 'power';

export interface FleetVm {
  name: string;
  phase: VmPhase;
  cpus: number;
  memoryBytes: number;
  /** Its part of what its host draws. */
  watts: number;
  movingTo?: string;
  /** It is on its way to this host and runs elsewhere. */
  arriving?: boolean;
}

export interface FleetHost {
  name: string;
  state: string;
  cordoned: boolean;
  cores: number;
  coresUsed?: number;
  memoryBytes: number;
  memoryUsedBytes?: number;
  /** At full load. */
  watts: number;
  wattsUsed?: number;
  lastSeen?: string | null;
  vms: FleetVm[];
  /** More than are listed. */
  vmsTotal: number;
}

/** A VM that runs on another host and is on its way to this one. */
export interface Arrival extends FleetVm {
  from: string;
}

/** Where a host stands, as the server groups them by default. */
export function placeOf({ site, rack }: Record<string, string>): string {
  return rack && site ? `${site}/${rack}` : (rack ?? '');
}

/** What is on its way from this host, by where it goes. */
export function arrivalsOf(bar: HostBar): Map<string, Arrival[]> {
  const arrivals = new Map<string, Arrival[]>();
  for (const vm of bar.vms) {
    if (!vm.moving_to) continue;
    const arrival = { ...fleetVm(vm), arriving: true, from: bar.name };
    arrivals.set(vm.moving_to, [...(arrivals.get(vm.moving_to) ?? []), arrival]);
  }
  return arrivals;
}

function fleetVm(vm: HostBar['vms'][number]): FleetVm {
  return { name: vm.name, phase: vm.phase, cpus: vm.cpus, memoryBytes: vm.memory_bytes, watts: vm.watts ?? 0, movingTo: vm.moving_to ?? undefined };
}

export function fleetHost(bar: HostBar, arriving: readonly Arrival[] = []): FleetHost {
  const heard = bar.state === 'ready';
  return {
    name: bar.name,
    state: bar.state,
    cordoned: bar.cordoned,
    cores: bar.cpu.capacity_cores,
    coresUsed: heard ? bar.cpu.used_cores : undefined,
    memoryBytes: bar.memory.capacity_bytes,
    memoryUsedBytes: heard ? bar.memory.used_bytes : undefined,
    watts: bar.power.most_watts,
    // What it draws is known a moment after it was heard.
    wattsUsed: heard && bar.power.most_watts > 0 ? bar.power.used_watts : undefined,
    lastSeen: bar.last_seen,
    // By name, so that a VM keeps its place while others come and go.
    vms: [...bar.vms.map(fleetVm).sort((a, b) => (a.name < b.name ? -1 : 1)), ...arriving],
    vmsTotal: bar.vms_total,
  };
}

export interface Segment {
  vm: FleetVm;
  /** Of the whole bar, 0–1. */
  share: number;
}

/** How VMs fill a host's bar. A host that is promised more than it has is drawn full, in proportion. */
export function segmentsOf(host: FleetHost, measure: Measure): Segment[] {
  const size = (vm: FleetVm) => ({ memory: vm.memoryBytes, cpu: vm.cpus, power: vm.watts })[measure];
  const capacity = { memory: host.memoryBytes, cpu: host.cores, power: host.watts }[measure];
  const sum = host.vms.reduce((total, vm) => total + size(vm), 0);
  const whole = Math.max(capacity, sum);
  return whole === 0 ? [] : host.vms.map((vm) => ({ vm, share: size(vm) / whole }));
}
