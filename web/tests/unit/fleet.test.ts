import { describe, expect, it } from 'vitest';
import { fleetOf, segmentsOf } from '../../src/lib/fleet';
import { changed, type HostBar, type Overview } from '../../src/lib/live/overview.svelte';

type Part = HostBar['vms'][number];

const part = (name: string, more: Partial<Part> = {}): Part => ({ name, phase: 'running', cpus: 1, memory_bytes: 2, ...more });
const bar = (name: string, rack: string, vms: Part[] = [], more: Partial<HostBar> = {}): HostBar => ({
  name,
  state: 'ready',
  cordoned: false,
  labels: rack ? { rack } : {},
  cpu: { capacity_cores: 4, assigned_cores: 0, used_cores: 1 },
  memory: { capacity_bytes: 8, assigned_bytes: 0, used_bytes: 3 },
  vms,
  vms_total: vms.length,
  ...more,
});

describe('fleetOf', () => {
  it('puts hosts into their racks in the order of people, and a moving VM on both its hosts', () => {
    const groups = fleetOf([bar('b', 'r10'), bar('a', 'r2', [part('still'), part('moving', { moving_to: 'b', phase: 'migrating' })])]);
    expect(groups.map((group) => group.name)).toEqual(['r2', 'r10']);
    expect(groups[0]!.hosts[0]!.vms.map(({ name, arriving }) => [name, arriving])).toEqual([['moving', undefined], ['still', undefined]]);
    expect(groups[1]!.hosts[0]!.vms.map(({ name, arriving }) => [name, arriving])).toEqual([['moving', true]]);
  });

  it('says nothing of what a host that is not heard uses', () => {
    const host = fleetOf([bar('a', '', [], { state: 'lost' })])[0]!.hosts[0]!;
    expect(host.memoryUsedBytes).toBeUndefined();
    expect(host.coresUsed).toBeUndefined();
  });

  it('fills a bar by share, and a host that promised too much in proportion', () => {
    const shares = (of: HostBar, measure: 'cpu' | 'memory') => segmentsOf(fleetOf([of])[0]!.hosts[0]!, measure).map(({ share }) => share);
    expect(shares(bar('a', '', [part('one'), part('two')]), 'memory')).toEqual([0.25, 0.25]);
    expect(shares(bar('a', '', [part('one'), part('two')]), 'cpu')).toEqual([0.25, 0.25]);
    expect(shares(bar('a', '', [part('one', { memory_bytes: 12 }), part('two', { memory_bytes: 4 })]), 'memory')).toEqual([0.75, 0.25]);
    const nothing = { capacity_bytes: 0, assigned_bytes: 0, used_bytes: 0 };
    expect(shares(bar('a', '', [], { memory: nothing }), 'memory')).toEqual([]);
  });
});

describe('a change of the overview', () => {
  const totals = { hosts: { total: 1, cordoned: 0 }, vms: { total: 0 } } as unknown as Overview['totals'];
  const before = { at: '1', totals, groups: [{ name: 'r1', ...totals }, { name: 'r2', ...totals }], wrong: [], wrong_total: 0 } as Overview;

  it('replaces what it names and leaves the rest', () => {
    const wrong = [{ severity: 'warning' as const, object: { kind: 'host', name: 'a' }, what: 'x' }];
    const after = changed(before, { at: '2', gone_groups: ['r1'], groups: [{ name: 'r3', ...totals }], wrong, wrong_total: 1 });
    expect(after.groups.map((group) => group.name)).toEqual(['r2', 'r3']);
    expect([after.at, after.wrong_total, after.totals]).toEqual(['2', 1, totals]);
    expect(changed(after, { wrong: [], wrong_total: 0 }).wrong).toEqual([]);
  });
});
