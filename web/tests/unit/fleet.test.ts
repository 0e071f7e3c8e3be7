import { describe, expect, it } from 'vitest';
import { arrivalsOf, fleetHost, segmentsOf, type Measure } from '../../src/lib/fleet';
import { changed, type HostBar, type Overview } from '../../src/lib/live/overview.svelte';

type Part = HostBar['vms'][number];

const part = (name: string, more: Partial<Part> = {}): Part => ({ name, phase: 'running', cpus: 1, memory_bytes: 2, watts: 0, ...more });
const bar = (name: string, rack: string, vms: Part[] = [], more: Partial<HostBar> = {}): HostBar => ({
  name,
  state: 'ready',
  cordoned: false,
  labels: rack ? { rack } : {},
  cpu: { capacity_cores: 4, assigned_cores: 0, used_cores: 1 },
  memory: { capacity_bytes: 8, assigned_bytes: 0, used_bytes: 3 },
  power: { most_watts: 100, used_watts: 60 },
  vms,
  vms_total: vms.length,
  ...more,
});

describe('a host as a bar', () => {
  it('has its VMs by name, and what arrives behind them', () => {
    const source = bar('a', 'r2', [part('still'), part('moving', { moving_to: 'b', phase: 'migrating' })]);
    expect(fleetHost(source).vms.map(({ name, arriving }) => [name, arriving])).toEqual([['moving', undefined], ['still', undefined]]);
    const arrivals = arrivalsOf(source).get('b')!;
    expect(fleetHost(bar('b', 'r10', [part('own')]), arrivals).vms.map(({ name, arriving }) => [name, arriving])).toEqual([['own', undefined], ['moving', true]]);
  });

  it('says nothing of what a host that is not heard uses', () => {
    const host = fleetHost(bar('a', '', [], { state: 'lost' }));
    expect(host.memoryUsedBytes).toBeUndefined();
    expect(host.coresUsed).toBeUndefined();
    expect(host.wattsUsed).toBeUndefined();
    const silent = { most_watts: 0, used_watts: 0 };
    expect(fleetHost(bar('a', '', [], { power: silent })).wattsUsed).toBeUndefined();
    expect(fleetHost(bar('a', '')).wattsUsed).toBe(60);
  });

  it('is filled by share, and one that promised too much in proportion', () => {
    const shares = (of: HostBar, measure: Measure) => segmentsOf(fleetHost(of), measure).map(({ share }) => share);
    expect(shares(bar('a', '', [part('one'), part('two')]), 'memory')).toEqual([0.25, 0.25]);
    expect(shares(bar('a', '', [part('one'), part('two')]), 'cpu')).toEqual([0.25, 0.25]);
    expect(shares(bar('a', '', [part('one', { memory_bytes: 12 }), part('two', { memory_bytes: 4 })]), 'memory')).toEqual([0.75, 0.25]);
    expect(shares(bar('a', '', [part('one', { watts: 40 }), part('two', { watts: 10 })]), 'power')).toEqual([0.4, 0.1]);
    const nothing = { capacity_bytes: 0, assigned_bytes: 0, used_bytes: 0 };
    expect(shares(bar('a', '', [], { memory: nothing }), 'memory')).toEqual([]);
  });
});

describe('a change of the overview', () => {
  const totals = { hosts: { total: 1, cordoned: 0 }, vms: { total: 0 } } as unknown as Overview['totals'];
  const before = { at: '1', totals, groups: [{ name: 'r1', ...totals }, { name: 'r2', ...totals }], wrong: [], wrong_total: 0, revision: 1, datacenter: 'x', by: 'rack' } as Overview;

  it('replaces what it names and leaves the rest', () => {
    const wrong = [{ severity: 'warning' as const, object: { kind: 'host', name: 'a' }, what: 'x' }];
    const after = changed(before, { revision: 2, at: '2', gone_groups: ['r1'], groups: [{ name: 'r3', ...totals }], wrong, wrong_total: 1 });
    expect(after.groups.map((group) => group.name)).toEqual(['r2', 'r3']);
    expect([after.at, after.wrong_total, after.totals]).toEqual(['2', 1, totals]);
    expect(changed(after, { revision: 3, wrong: [], wrong_total: 0 }).wrong).toEqual([]);
  });
});
