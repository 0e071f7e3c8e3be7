import { describe, expect, it } from 'vitest';
import { exportOf, poolActions, volumeActions } from '../../src/lib/actions/storage';
import { moveDiskAction } from '../../src/lib/actions/vm';
import type { Pool, Vm, Volume } from '../../src/lib/api/types';
import { toneOf } from '../../src/lib/format/phase';
import { limitWords, poolsForDisk, stateOf, useOf } from '../../src/lib/storage';
import { cliOf, cloneDraftOf, draftOf, specOf } from '../../src/features/storage/volume';

const GIB = 2 ** 30;
const pool = (status: object, name = 'fast') => ({ metadata: { name }, spec: { path: '/srv/fast', hosts: ['host-1'], overcommit_percent: 150, alarm_percent: 90 }, status }) as unknown as Pool;
const volume = (spec: object, status: object = {}) => ({ metadata: { name: 'data' }, spec: { pool: 'fast', size: '1GiB', ...spec }, status }) as unknown as Volume;

describe('a pool', () => {
  it('is measured against its capacity, and promises against what may be promised', () => {
    const use = useOf(pool({ space: { capacity: '100GiB', free: '25GiB' }, promised: '120GiB' }))!;
    expect([use.used, use.promised, use.promisable, use.alarm]).toEqual([75 * GIB, 120 * GIB, 150 * GIB, 0.9]);
    expect(useOf(pool({ promised: '1GiB' }))).toBeUndefined();
  });

  it('that is nearly full is a warning, one that is full or away is an error, one not heard of is neither', () => {
    expect(toneOf(stateOf(pool({ phase: 'ready', health: 'nearly_full' })).state)).toBe('warn');
    expect(['full', 'missing', 'read_only', 'not_writable', 'unreachable'].map(toneOf)).toEqual(Array(5).fill('bad'));
    expect(stateOf(pool({ phase: 'ready' }))).toEqual({ state: 'unknown', tone: 'idle' });
    expect(stateOf(pool({ phase: 'deleting', health: 'healthy' }))).toEqual({ state: 'deleting' });
  });

  it('is not offered for deletion while it has volumes or is a host’s own', () => {
    expect(poolActions(pool({ volumes: 0 }))[0]!.blocked).toBeUndefined();
    expect(poolActions(pool({ volumes: 1 }))[0]!.blocked).toBe('it has volumes');
    expect(poolActions(pool({}, 'local-host-1'))[0]!.blocked).toBe('it is its host’s own');
  });
});

describe('a VM’s own disk', () => {
  const vm = (pool?: string) => ({ metadata: { name: 'web' }, spec: { pool }, status: { host: 'host-1' } }) as unknown as Vm;
  const elsewhere = { ...pool({}, 'third'), spec: { path: '/srv/third', hosts: ['host-3'] } } as Pool;
  const pools = [pool({}, 'local-host-1'), pool({}, 'nas'), elsewhere];
  const names = (pool?: string) => poolsForDisk(vm(pool), pools).others.map(({ metadata }) => metadata.name);

  it('goes to any pool that its host reaches, and not to where it is', () => {
    expect(poolsForDisk(vm(), pools).here).toBe('local-host-1');
    expect(names()).toEqual(['nas']);
    expect(names('nas')).toEqual(['local-host-1']);
  });

  it('moves by a command that says where to', () => {
    expect(moveDiskAction('web', '').blocked).toBe('no pool is chosen');
    expect(moveDiskAction('web', 'nas')).toMatchObject({ blocked: undefined, cli: 'gantry vm migrate web --pool nas' });
  });
});

describe('a volume', () => {
  it('is made by what was chosen, and nothing else', () => {
    const draft = { ...draftOf(undefined), name: 'data', pool: 'fast', size: '2GiB' };
    expect(specOf(draft)).toEqual({ pool: 'fast', size: '2GiB' });
    expect(cliOf(draft)).toBe('gantry volume create data --size 2GiB --pool fast');
    const filled = { ...draft, image: 'debian' };
    expect([specOf(filled), cliOf(filled)]).toEqual([{ pool: 'fast', size: '2GiB', image: 'debian' }, 'gantry volume create data --size 2GiB --pool fast --image debian']);
    const limited = { ...draft, iops: '500', rate: '20MiB', cache: 'writeback' as const, discard: false };
    expect(specOf(limited)).toEqual({ pool: 'fast', size: '2GiB', limits: { iops: 500, bytes_per_s: '20MiB' }, cache: 'writeback', discard: false });
    expect(cliOf(limited)).toBe('gantry volume create data --size 2GiB --pool fast --iops 500 --bytes-per-s 20MiB --cache writeback --discard false');
  });

  it('is changed by what is different; a limit is taken away by 0', () => {
    const before = volume({ limits: { iops: 500 } });
    expect(cliOf({ ...draftOf(before), size: '2GiB' }, before)).toBe('gantry volume set data --size 2GiB');
    expect(cliOf({ ...draftOf(before), iops: '' }, before)).toBe('gantry volume set data --iops 0');
    expect(specOf({ ...draftOf(before), iops: '' })).toEqual({ pool: 'fast', size: '1GiB' });
  });

  it('is cloned with the settings of its source, but for what is changed', () => {
    const source = volume({ limits: { iops: 500 } });
    const draft = { ...cloneDraftOf(source), name: 'data-2' };
    expect(specOf(draft)).toEqual({ pool: 'fast', size: '1GiB', limits: { iops: 500 }, clone_of: 'data' });
    expect(cliOf(draft, undefined, source)).toBe('gantry volume clone data data-2');
    expect(cliOf({ ...draft, pool: 'slow', size: '2GiB', iops: '' }, undefined, source)).toBe('gantry volume clone data data-2 --pool slow --size 2GiB --iops 0');
  });

  it('is exported as a file of a format, under its name', () => {
    const { file, cli, call } = exportOf('data', 'vmdk');
    expect([file, cli, call.path]).toEqual(['data.vmdk', 'gantry volume export data ./data.vmdk', '/v1/volumes/data/content?format=vmdk']);
  });

  it('says its limits in words', () => {
    expect(limitWords(volume({ limits: { iops: 1500, bytes_per_s: '20MiB' } }).spec)).toBe('1,500 requests/s, 20 MiB/s');
    expect(limitWords(volume({}).spec)).toBeUndefined();
  });

  it('is deleted only when no VM has it, and detached only from one', () => {
    const blocked = (status: object) => volumeActions(volume({}, status)).map((action) => action.blocked);
    expect(blocked({ phase: 'ready' })).toEqual(['no VM has it', undefined]);
    expect(blocked({ phase: 'attached', vm: 'web' })).toEqual([undefined, 'web has it']);
    expect(blocked({ phase: 'detaching', vm: 'web', operation: 'op-1' })).toEqual(['it is busy: op-1', 'it is busy: op-1']);
  });
});
