// A VM's part of its host as its dialog has it, and what becomes of it. Pure.
import type { Vm, VmSpec } from '$lib/api/types';
import { quoted } from '$lib/actions/action';
import { bytesOf, showSize } from '$lib/format/size';
import { processors } from '$lib/resource-pools';

export interface Part {
  pool: string;
  cpuReservation: string;
  /** Empty is no limit. */
  cpuLimit: string;
  cpuShares: string;
  memoryReservation: string;
}

type Wishes = NonNullable<VmSpec['resources']>;

export function partOf({ spec: { resources } }: Vm): Part {
  return {
    pool: resources?.resource_pool ?? '',
    cpuReservation: String(resources?.cpu_reservation_percent ?? 0),
    cpuLimit: resources?.cpu_limit_percent?.toString() ?? '',
    cpuShares: String(resources?.cpu_shares ?? 100),
    memoryReservation: bytesOf(resources?.memory_reservation) > 0 ? (resources?.memory_reservation ?? '') : '',
  };
}

/** What the dialog does not show stays as it is. */
export function wishesOf(part: Part, before: Wishes | undefined): Wishes {
  const limit = part.cpuLimit.trim();
  return {
    ...before,
    resource_pool: part.pool || null,
    cpu_reservation_percent: Number(part.cpuReservation),
    cpu_limit_percent: limit ? Number(limit) : null,
    cpu_shares: Number(part.cpuShares),
    memory_reservation: part.memoryReservation.trim() || '0',
  };
}

export function partCli(name: string, part: Part, before: Part): string {
  const flag = (word: string, key: keyof Part, none: string) => (part[key].trim() === before[key] ? [] : [`--${word} ${quoted(part[key].trim() || none)}`]);
  return [
    `gantry vm set ${name}`,
    ...flag('resource-pool', 'pool', 'none'),
    ...flag('cpu-reservation', 'cpuReservation', '0'),
    ...flag('cpu-limit', 'cpuLimit', 'none'),
    ...flag('cpu-shares', 'cpuShares', '100'),
    ...flag('memory-reservation', 'memoryReservation', '0'),
  ].join(' ');
}

/** Undefined if it only shares with its neighbours like everyone. */
export function partWords(vm: Vm): string | undefined {
  const { resources } = vm.spec;
  const parts = [
    ...(resources?.resource_pool ? [`a part of ${resources.resource_pool}`] : []),
    ...(resources?.cpu_reservation_percent ? [`${processors(resources.cpu_reservation_percent)} processors promised`] : []),
    ...(resources?.cpu_limit_percent != null ? [`at most ${processors(resources.cpu_limit_percent)} processors`] : []),
    ...(bytesOf(resources?.memory_reservation) > 0 ? [`${showSize(resources?.memory_reservation)} promised`] : []),
    ...((resources?.cpu_shares ?? 100) === 100 ? [] : [`weight ${resources?.cpu_shares}`]),
  ];
  return parts.join(', ') || undefined;
}
