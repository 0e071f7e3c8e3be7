// Resource pools: in words, as a tree, and as actions. Pure but for the requests it describes.
import { call } from './api/client';
import type { ResourcePool } from './api/types';
import { quoted, type Action } from './actions/action';
import { bytesOf, showNumber, showSize } from './format/size';

/** 150 % of a processor are 1.5 processors. */
export function processors(percent: number): string {
  return showNumber(Number((percent / 100).toFixed(2)));
}

export interface Part {
  used: number;
  /** What it is measured against; 0 if it has neither limit nor reservation. */
  most: number;
  label: string;
  text: string;
}

/** A part against its limit; without one against what is promised to it. */
export function cpuOf({ spec, status }: ResourcePool): Part {
  const used = status?.cpu_used_percent ?? 0;
  const { limit_percent: limit, reservation_percent: promised = 0 } = spec.cpu ?? {};
  const words = limit != null ? `of at most ${processors(limit)}` : promised > 0 ? `${processors(promised)} promised` : 'no limit';
  return { used, most: limit ?? promised, label: `${processors(used)} processors in use`, text: words };
}

export function memoryOf({ spec, status }: ResourcePool): Part {
  const used = bytesOf(status?.memory_given);
  const { limit, reservation } = spec.memory ?? {};
  const promised = bytesOf(reservation);
  const words = limit != null ? `of at most ${showSize(limit)}` : promised > 0 ? `${showSize(reservation)} promised` : 'no limit';
  return { used, most: limit != null ? bytesOf(limit) : promised, label: `${showSize(used)} given`, text: words };
}

/** What else holds for it, as a line of words. */
export function termsOf({ spec, status }: ResourcePool): string[] {
  const { cpu, memory } = spec;
  const promised = [
    ...(cpu?.reservation_percent ? [`${processors(cpu.reservation_percent)} processors (${processors(status?.cpu_reserved_percent ?? 0)} passed on)`] : []),
    ...(bytesOf(memory?.reservation) > 0 ? [`${showSize(memory?.reservation)} (${showSize(status?.memory_reserved ?? 0)} passed on)`] : []),
  ];
  const [shares, memoryShares] = [cpu?.shares ?? 100, memory?.shares ?? 100];
  return [...(promised.length > 0 ? [`promised ${promised.join(' and ')}`] : []), shares === memoryShares ? `weight ${shares}` : `weight ${shares}, of memory ${memoryShares}`];
}

export interface PoolDraft {
  name: string;
  cluster: string;
  parent: string;
  cpuShares: number;
  cpuReservation: number;
  /** Empty is no limit. */
  cpuLimit: string;
  memoryShares: number;
  memoryReservation: string;
  memoryLimit: string;
}

export function draftOf(pool: ResourcePool | undefined, parent = '', cluster = 'main'): PoolDraft {
  const { metadata, spec } = pool ?? {};
  const reservation = spec?.memory?.reservation;
  return {
    name: metadata?.name ?? '',
    cluster: spec?.cluster ?? cluster,
    parent: spec?.parent ?? parent,
    cpuShares: spec?.cpu?.shares ?? 100,
    cpuReservation: spec?.cpu?.reservation_percent ?? 0,
    cpuLimit: spec?.cpu?.limit_percent?.toString() ?? '',
    memoryShares: spec?.memory?.shares ?? 100,
    memoryReservation: bytesOf(reservation) > 0 ? (reservation ?? '') : '',
    memoryLimit: spec?.memory?.limit ?? '',
  };
}

export function specOf(draft: PoolDraft): ResourcePool['spec'] {
  const [cpuLimit, reservation, limit] = [draft.cpuLimit.trim(), draft.memoryReservation.trim(), draft.memoryLimit.trim()];
  return {
    cluster: draft.cluster,
    ...(draft.parent ? { parent: draft.parent } : {}),
    cpu: { shares: draft.cpuShares, reservation_percent: draft.cpuReservation, ...(cpuLimit ? { limit_percent: Number(cpuLimit) } : {}) },
    memory: { shares: draft.memoryShares, ...(reservation ? { reservation } : {}), ...(limit ? { limit } : {}) },
  };
}

/** One command makes and changes pools: it says what is not as it was, or as it would be without being said. */
export function cliOf(draft: PoolDraft, before?: ResourcePool): string {
  const old = draftOf(before);
  const words = [`gantry resource-pool set ${quoted(draft.name.trim() || 'NAME')}`];
  const flag = (name: string, now: string | number, then: string | number, none: string) => {
    const text = String(now).trim();
    if (text !== String(then)) words.push(`--${name} ${quoted(text || none)}`);
  };
  flag('cluster', draft.cluster, old.cluster, 'main');
  flag('parent', draft.parent, old.parent, 'none');
  flag('cpu-shares', draft.cpuShares, old.cpuShares, '100');
  flag('cpu-reservation', draft.cpuReservation, old.cpuReservation, '0');
  flag('cpu-limit', draft.cpuLimit, old.cpuLimit, 'none');
  flag('memory-shares', draft.memoryShares, old.memoryShares, '100');
  flag('memory-reservation', draft.memoryReservation, old.memoryReservation, '0');
  flag('memory-limit', draft.memoryLimit, old.memoryLimit, 'none');
  return words.join(' ');
}

export function deletePool({ metadata: { name }, status }: ResourcePool, inner: number): Action {
  return {
    id: 'delete',
    label: 'Delete',
    icon: 'delete',
    danger: true,
    blocked: inner > 0 ? 'there are pools inside it' : (status?.vms ?? 0) > 0 ? 'VMs are in it' : undefined,
    ask: 'What it was promised is free for others.',
    cli: `gantry resource-pool delete ${name}`,
    call: call('DELETE', '/v1/resource-pools/{name}', { params: { path: { name } } }),
    asked: `${name} is deleted`,
  };
}
