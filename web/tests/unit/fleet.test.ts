import { describe, expect, it } from 'vitest';
import type { Host, Vm } from '../../src/lib/api/types';
import { fleetOf, segmentsOf } from '../../src/lib/fleet';
import { wrongOf } from '../../src/lib/wrong';

function host(name: string, rack: string, state = 'ready'): Host {
  const inventory = { cpu: { count: 4, model: '', flags: [] }, memory: '8GiB' };
  return { kind: 'host', metadata: { name, labels: { rack } }, spec: {}, status: { state, inventory } } as unknown as Host;
}

function vm(name: string, status: object, memory = '2GiB'): Vm {
  return { kind: 'vm', metadata: { name }, spec: { cpus: 1, memory }, status } as unknown as Vm;
}

describe('fleetOf', () => {
  it('puts hosts into their racks and VMs on their hosts, a moving one on both', () => {
    const groups = fleetOf(
      [host('b', 'r2'), host('a', 'r1')],
      [vm('still', { host: 'a', phase: 'running' }), vm('moving', { host: 'a', moving_to: 'b', phase: 'migrating' })],
    );
    expect(groups.map((group) => group.name)).toEqual(['r1', 'r2']);
    expect(groups[0]!.hosts[0]!.vms.map(({ name, arriving }) => [name, arriving])).toEqual([['still', undefined], ['moving', undefined]]);
    expect(groups[1]!.hosts[0]!.vms.map(({ name, arriving }) => [name, arriving])).toEqual([['moving', true]]);
  });

  it('fills a bar by share, and a host that promised too much in proportion', () => {
    const [group] = fleetOf([host('a', '')], [vm('one', { host: 'a' }), vm('two', { host: 'a' })]);
    expect(segmentsOf(group!.hosts[0]!, 'memory').map(({ share }) => share)).toEqual([0.25, 0.25]);
    expect(segmentsOf(group!.hosts[0]!, 'cpu').map(({ share }) => share)).toEqual([0.25, 0.25]);
    const [full] = fleetOf([host('a', '')], [vm('one', { host: 'a' }, '12GiB'), vm('two', { host: 'a' }, '4GiB')]);
    expect(segmentsOf(full!.hosts[0]!, 'memory').map(({ share }) => share)).toEqual([0.75, 0.25]);
  });

  it('draws nothing on a host that has told nothing', () => {
    const unknown = { metadata: { name: 'a' }, spec: {} } as Host;
    expect(segmentsOf(fleetOf([unknown], [])[0]!.hosts[0]!, 'memory')).toEqual([]);
  });
});

describe('wrongOf', () => {
  it('says what is wrong, worst first, with what to do', () => {
    const image = { metadata: { name: 'i' }, status: { phase: 'failed', reason: 'no space' } } as never;
    const list = wrongOf([host('a', '', 'lost'), host('b', '')], [vm('x', { host: 'a', phase: 'unknown' }), vm('y', { phase: 'failed', reason: 'QEMU died' })], [image]);
    expect(list.map(({ object }) => object.name)).toEqual(['a', 'y', 'i']);
    expect(list[0]!.what).toContain('its VM does');
    expect(list[1]!.what).toContain('QEMU died');
    expect(list.every(({ remedy }) => remedy)).toBe(true);
  });

  it('is silent when all is well', () => {
    expect(wrongOf([host('a', '')], [vm('x', { host: 'a', phase: 'running' })], [])).toEqual([]);
  });
});
