import { describe, expect, it } from 'vitest';
import type { GroupRule, Network, Port, Router, SecurityGroup, Vm } from '../../src/lib/api/types';
import { cliOfRules, reachOf, ruleWords } from '../../src/lib/groups';
import { listenCli, listenersOf, listenerText, listenerWords } from '../../src/lib/listeners';
import { topologyOf } from '../../src/lib/topology';
import { treeOf } from '../../src/lib/tree';

const network = (name: string) => ({ metadata: { name }, spec: { subnet: { cidr: '10.0.0.0/8' } } }) as unknown as Network;
const vm = (name: string, ...networks: string[]) =>
  ({ metadata: { name }, spec: {}, status: { phase: 'running', nics: networks.map((on, index) => ({ network: on, address: `10.0.0.${index}` })) } }) as unknown as Vm;

describe('topologyOf', () => {
  it('draws a VM once, with a line to each of its networks', () => {
    const drawing = topologyOf({ networks: [network('a'), network('b')], vms: [vm('both', 'a', 'b'), vm('one', 'b'), vm('none')] });
    expect(drawing.boxes.map((box) => [box.vm, box.links.length])).toEqual([['both', 2], ['one', 1]]);
    expect(new Set(drawing.boxes.map((box) => `${box.x} ${box.y}`)).size).toBe(2);
  });

  it('joins the rails of a router, and says which groups hold for a VM', () => {
    const router = { metadata: { name: 'shop' }, spec: { networks: ['a'], external: 'b' } } as Router;
    const port = { metadata: { name: 'v-eth0' }, spec: { network: 'a', security_groups: ['web', 'all'] }, status: { vm: 'v' } } as Port;
    const drawing = topologyOf({ networks: [network('a'), network('b')], vms: [vm('v', 'a')], ports: [port], routers: [router] });
    expect(drawing.boxes[0]!.groups).toEqual(['all', 'web']);
    const [joint] = drawing.joints;
    expect(joint!.meets.map((meet) => [drawing.rails.find((rail) => rail.y === meet.y)!.name, meet.out])).toEqual([['a', false], ['b', true]]);
    expect(joint!.x).toBeGreaterThan(drawing.boxes[0]!.x);
  });

  it('counts what does not fit', () => {
    const drawing = topologyOf({ networks: [network('a')], vms: Array.from({ length: 9 }, (_, n) => vm(`v${n}`, 'a')) }, 6);
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
    expect(ruleWords({ protocol: 'tcp', ports: '443' })).toBe('takes TCP 443 from anyone');
    expect(ruleWords({ direction: 'egress', group: 'db' })).toBe('may send everything to ports of group db');
  });
});

describe('cliOfRules', () => {
  const https: GroupRule = { protocol: 'tcp', ports: '443', cidr: '0.0.0.0/0' };

  it('makes a group with its rules', () => {
    expect(cliOfRules('web', undefined, [https, { protocol: 'icmp' }])).toBe(
      'gantry security-group create web\ngantry security-group allow web --tcp 443 --from 0.0.0.0/0\ngantry security-group allow web --icmp',
    );
  });

  it('changes only what is different', () => {
    expect(cliOfRules('db', [https], [{ protocol: 'tcp', ports: '5432', group: 'web' }])).toBe(
      'gantry security-group allow db --tcp 5432 --from-group web\ngantry security-group revoke db --tcp 443 --from 0.0.0.0/0',
    );
  });
});

describe('reachOf', () => {
  it('gathers rules of all groups by who talks to whom', () => {
    const group = (name: string, ...rules: GroupRule[]) => ({ metadata: { name }, spec: { rules } }) as SecurityGroup;
    const found = reachOf([
      group('web', { protocol: 'tcp', ports: '443', cidr: '0.0.0.0/0' }, { protocol: 'icmp' }),
      group('db', { protocol: 'tcp', ports: '5432', group: 'web' }),
      group('out', { direction: 'egress', cidr: '10.0.0.0/8' }),
    ]);
    expect(found).toEqual([
      { from: 'out', to: '10.0.0.0/8', what: ['everything'] },
      { from: 'web', to: 'db', what: ['TCP 5432'] },
      { from: 'anyone', to: 'web', what: ['TCP 443', 'ICMP'] },
    ]);
  });
});

describe('listeners', () => {
  it('are read as they are typed, and what is none is left to the controller', () => {
    expect(listenersOf('tcp:80:8080, udp:53 what')).toEqual([
      { protocol: 'tcp', port: 80, target_port: 8080 },
      { protocol: 'udp', port: 53 },
      { protocol: 'what', port: 0 },
    ]);
    expect(listenersOf('tcp:80:8080').map(listenerWords)).toEqual(['TCP 80 (to 8080)']);
    expect(listenersOf('tcp:80:8080, udp:53').map(listenerText)).toEqual(['tcp:80:8080', 'udp:53']);
  });

  it('changed say what is new and what is gone', () => {
    const before = listenersOf('tcp:80, udp:53');
    expect(listenCli('front', before, listenersOf('tcp:80, udp:53'))).toBe('');
    expect(listenCli('front', before, listenersOf('tcp:80, tcp:443:8443'))).toBe('gantry load-balancer unlisten front udp:53 && gantry load-balancer listen front tcp:443:8443');
  });
});
