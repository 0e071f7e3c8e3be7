import { describe, expect, it } from 'vitest';
import type { ResourcePool, Vm } from '../../src/lib/api/types';
import { showEnergy, sinceOf } from '../../src/lib/energy';
import { partCli, partOf, partWords, wishesOf } from '../../src/features/vm/part';
import { cliOf, cpuOf, deletePool, draftOf, memoryOf, specOf, termsOf } from '../../src/lib/resource-pools';

const pool = (spec: object, status: object = {}) => ({ metadata: { name: 'shop' }, spec: { cluster: 'main', ...spec }, status }) as unknown as ResourcePool;

describe('a resource pool', () => {
  it('is measured against its limit, else against what is promised to it', () => {
    expect(cpuOf(pool({ cpu: { limit_percent: 400, reservation_percent: 100 } }, { cpu_used_percent: 150 }))).toEqual({ used: 150, most: 400, label: '1.5 processors in use', text: 'of at most 4' });
    expect(cpuOf(pool({ cpu: { reservation_percent: 100 } })).most).toBe(100);
    expect(memoryOf(pool({ memory: { limit: '8GiB' } }, { memory_given: '2GiB' }))).toMatchObject({ label: '2 GiB given', text: 'of at most 8 GiB' });
    expect(memoryOf(pool({}))).toMatchObject({ most: 0, text: 'no limit' });
  });

  it('says what is promised and how much of that is passed on', () => {
    expect(termsOf(pool({ cpu: { reservation_percent: 200, shares: 50 }, memory: { shares: 50 } }, { cpu_reserved_percent: 150 }))).toEqual(['promised 2 processors (1.5 passed on)', 'weight 50']);
  });

  it('is made by what was chosen, and changed by what is different', () => {
    const draft = { ...draftOf(undefined, 'shop'), name: 'batch', cpuLimit: '200', memoryLimit: '4GiB' };
    expect(specOf(draft)).toEqual({ cluster: 'main', parent: 'shop', cpu: { shares: 100, reservation_percent: 0, limit_percent: 200 }, memory: { shares: 100, limit: '4GiB' } });
    expect(cliOf(draft)).toBe('gantry resource-pool set batch --parent shop --cpu-limit 200 --memory-limit 4GiB');
    const before = pool({ cpu: { limit_percent: 400 } });
    expect(cliOf({ ...draftOf(before), cpuLimit: '', cpuShares: 200 }, before)).toBe('gantry resource-pool set shop --cpu-shares 200 --cpu-limit none');
  });

  it('is not offered for deletion while something is in it', () => {
    expect(deletePool(pool({}), 1).blocked).toBe('there are pools inside it');
    expect(deletePool(pool({}, { vms: 2 }), 0).blocked).toBe('VMs are in it');
    expect(deletePool(pool({}), 0).blocked).toBeUndefined();
  });
});

describe('energy', () => {
  it('is shown in the unit that fits', () => {
    expect([0.256, 1.5, 999, 12_345, 2_500_000].map(showEnergy)).toEqual(['0.26 Wh', '1.5 Wh', '999 Wh', '12.3 kWh', '2.5 MWh']);
  });

  it('is asked for from a whole hour on', () => {
    expect(sinceOf('24h', Date.parse('2026-03-02T10:20:30Z'))).toBe('2026-03-01T10:00:00.000Z');
    expect(sinceOf('what?', Date.parse('2026-03-02T10:00:00Z'))).toBe('2026-03-01T10:00:00.000Z');
  });
});

describe('a VM’s part of its host', () => {
  const vm = (resources?: object) => ({ metadata: { name: 'web' }, spec: { cpus: 1, memory: '1GiB', resources } }) as unknown as Vm;

  it('is changed by what is different; what is not shown stays', () => {
    const before = vm({ resource_pool: 'shop', memory_shares: 300 });
    const part = { ...partOf(before), pool: '', cpuLimit: '50' };
    expect(partCli('web', part, partOf(before))).toBe('gantry vm set web --resource-pool none --cpu-limit 50');
    expect(wishesOf(part, before.spec.resources)).toMatchObject({ resource_pool: null, cpu_limit_percent: 50, memory_shares: 300, cpu_shares: 100 });
  });

  it('is said in words, if there is anything to say', () => {
    expect(partWords(vm())).toBeUndefined();
    expect(partWords(vm({ resource_pool: 'shop', cpu_limit_percent: 50, cpu_shares: 200 }))).toBe('a part of shop, at most 0.5 processors, weight 200');
  });
});
