import { describe, expect, it } from 'vitest';
import type { Network, Vm } from '../../src/lib/api/types';
import { ruleWords } from '../../src/lib/groups';
import { topologyOf } from '../../src/lib/topology';
import { treeOf } from '../../src/lib/tree';

const network = (name: string) => ({ metadata: { name }, spec: { subnet: { cidr: '10.0.0.0/8' } } }) as unknown as Network;
const vm = (name: string, ...networks: string[]) =>
  ({ metadata: { name }, spec: {}, status: { phase: 'running', nics: networks.map((on, index) => ({ network: on, address: `10.0.0.${index}` })) } }) as unknown as Vm;

describe('topologyOf', () => {
  it('draws a VM once, with a line to each of its networks', () => {
    const drawing = topologyOf([network('a'), network('b')], [vm('both', 'a', 'b'), vm('one', 'b'), vm('none')]);
    expect(drawing.boxes.map((box) => [box.vm, box.links.length])).toEqual([['both', 2], ['one', 1]]);
    expect(new Set(drawing.boxes.map((box) => `${box.x} ${box.y}`)).size).toBe(2);
  });

  it('counts what does not fit', () => {
    const drawing = topologyOf([network('a')], Array.from({ length: 9 }, (_, n) => vm(`v${n}`, 'a')), 6);
    expect(drawing.boxes.length).toBe(6);
    expect(drawing.rails[0]!.more).toBe(3);
  });
});

describe('treeOf', () => {
  const tree = (items: [string, string?][]) => treeOf(items, ([name]) => name, ([, parent]) => parent).map(({ item, depth }) => `${'.'.repeat(depth)}${item[0]}`);

  it('puts each below what it grew from', () => {
    expect(tree([['a'], ['c', 'b'], ['b', 'a'], ['d', 'a']])).toEqual(['a', '.b', '..c', '.d']);
  });

  it('shows also what has lost its parent, and ends in a circle', () => {
    expect(tree([['x', 'gone']])).toEqual(['x']);
    expect(tree([['a', 'b'], ['b', 'a']])).toEqual(['a', 'b']);
  });
});

describe('ruleWords', () => {
  it('says a rule as a sentence', () => {
    expect(ruleWords({ protocol: 'tcp', ports: 443 })).toBe('takes TCP 443 from anyone');
    expect(ruleWords({ direction: 'egress', group: 'db' })).toBe('may send everything to ports of group db');
  });
});
