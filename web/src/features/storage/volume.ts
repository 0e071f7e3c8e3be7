// A volume as its dialog has it, and what becomes of it. Pure.
import type { Volume, VolumeSpec } from '$lib/api/types';
import { quoted } from '$lib/actions/action';

export interface VolumeDraft {
  name: string;
  pool: string;
  size: string;
  /** Empty is no limit. */
  iops: string;
  rate: string;
  cache: 'none' | 'writeback';
  discard: boolean;
  /** The volume that it begins as; empty for a blank one. */
  cloneOf: string;
  /** The image that it begins as; empty for a blank one. */
  image: string;
}

export function draftOf(volume: Volume | undefined, pool = ''): VolumeDraft {
  const { metadata, spec } = volume ?? {};
  return {
    name: metadata?.name ?? '',
    pool: spec?.pool ?? pool,
    size: spec?.size ?? '',
    iops: spec?.limits?.iops?.toString() ?? '',
    rate: spec?.limits?.bytes_per_s ?? '',
    cache: spec?.cache ?? 'none',
    discard: spec?.discard ?? true,
    cloneOf: spec?.clone_of ?? '',
    image: spec?.image ?? '',
  };
}

/** A new one with this one's content. */
export function cloneDraftOf(volume: Volume): VolumeDraft {
  return { ...draftOf(volume), name: '', cloneOf: volume.metadata.name, image: '' };
}

export function specOf(draft: VolumeDraft): VolumeSpec {
  const [iops, rate] = [draft.iops.trim(), draft.rate.trim()];
  const limits = { ...(iops ? { iops: Number(iops) } : {}), ...(rate ? { bytes_per_s: rate } : {}) };
  return {
    pool: draft.pool,
    size: draft.size.trim(),
    ...(iops || rate ? { limits } : {}),
    ...(draft.cache === 'none' ? {} : { cache: draft.cache }),
    ...(draft.discard ? {} : { discard: false }),
    ...(draft.cloneOf ? { clone_of: draft.cloneOf } : {}),
    ...(draft.image ? { image: draft.image } : {}),
  };
}

/** What is as it was, or as the source of a clone has it, is not said again; 0 takes a limit away. */
export function cliOf(draft: VolumeDraft, before?: Volume, source?: Volume): string {
  const old = draftOf(before ?? source);
  const flag = (name: string, now: string, then: string) => (now.trim() === then ? [] : [`--${name} ${quoted(now.trim() || '0')}`]);
  const name = quoted(draft.name.trim() || 'NAME');
  const words = source
    ? [`gantry volume clone ${source.metadata.name} ${name}`, ...flag('pool', draft.pool, old.pool), ...flag('size', draft.size, old.size)]
    : before
      ? [`gantry volume set ${before.metadata.name}`, ...flag('size', draft.size, old.size)]
      : [`gantry volume create ${name} --size ${quoted(draft.size.trim() || 'SIZE')} --pool ${draft.pool || 'POOL'}${draft.image ? ` --image ${draft.image}` : ''}`];
  return [
    ...words,
    ...flag('iops', draft.iops, old.iops),
    ...flag('bytes-per-s', draft.rate, old.rate),
    ...flag('cache', draft.cache, old.cache),
    ...flag('discard', String(draft.discard), String(old.discard)),
  ].join(' ');
}
