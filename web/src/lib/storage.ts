// How full pools are, and what a volume's settings are in words. Pure.
import type { Pool, Vm, Volume, VolumeSpec } from './api/types';
import type { Tone } from './format/phase';
import { bytesOf, showSize } from './format/size';

export interface PoolUse {
  used: number;
  capacity: number;
  free: number;
  promised: number;
  /** What its volumes may be promised together. */
  promisable: number;
  /** From which share of its capacity on there is an alarm, 0–1. */
  alarm: number;
}

/** Undefined until a host has measured it. */
export function useOf({ spec, status }: Pool): PoolUse | undefined {
  if (!status?.space) return undefined;
  const [capacity, free] = [bytesOf(status.space.capacity), bytesOf(status.space.free)];
  return {
    used: Math.max(0, capacity - free),
    capacity,
    free,
    promised: bytesOf(status.promised),
    promisable: (capacity * (spec.overcommit_percent ?? 200)) / 100,
    alarm: (spec.alarm_percent ?? 85) / 100,
  };
}

/** A pool that is being made or deleted says that; else how it is. */
export function stateOf({ status }: Pool): { state: string; tone?: Tone } {
  const { phase = 'ready', health = 'unknown' } = status ?? {};
  if (phase !== 'ready') return { state: phase };
  return health === 'unknown' ? { state: health, tone: 'idle' } : { state: health };
}

/** Where a volume that no VM has can be attached: in a mirrored pool where its content is, once it was made there. */
export function hostsOf({ status }: Volume, pool: Pool): string[] {
  return pool.spec.type === 'mirrored' ? (status?.copies?.current ?? pool.spec.hosts) : pool.spec.hosts;
}

/** Where a VM's own disk is, and where it could go: pools that the VM's host reaches. */
export function poolsForDisk({ spec, status }: Vm, pools: readonly Pool[]): { here: string; others: Pool[] } {
  const here = spec.pool ?? `local-${status?.host}`;
  const reached = (pool: Pool) => pool.spec.hosts.some((host) => host === status?.host);
  const others = pools.filter((pool) => pool.metadata.name !== here && reached(pool));
  return { here, others };
}

/** What a volume may do at most; nothing if there is no limit. */
export function limitWords({ limits }: VolumeSpec): string | undefined {
  const parts = [
    ...(limits?.iops ? [`${limits.iops.toLocaleString('en')} requests/s`] : []),
    ...(limits?.bytes_per_s ? [`${showSize(limits.bytes_per_s)}/s`] : []),
  ];
  return parts.length > 0 ? parts.join(', ') : undefined;
}

/** Where the guest finds it. */
export function deviceOf(volume: Volume): string {
  return `/dev/disk/by-id/virtio-${volume.metadata.name.slice(0, SERIAL_CHARS)}`;
}

/** A virtio disk's serial number has no more. */
const SERIAL_CHARS = 20;
