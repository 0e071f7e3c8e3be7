// Where networks and VMs stand in the drawing: each network a rail, each VM a box below the first of its rails, a line to
// every rail it is on. Pure. What does not fit is counted, not squeezed.
import type { Network, Vm } from './api/types';

export interface Rail {
  name: string;
  cidr: string;
  y: number;
  /** VMs on it that are not drawn. */
  more: number;
}

export interface Box {
  vm: string;
  phase: string;
  x: number;
  y: number;
  /** The y of each rail, and the address there. */
  links: { y: number; x: number; address: string }[];
}

export interface Topology {
  width: number;
  height: number;
  rails: Rail[];
  boxes: Box[];
}

export const BOX = { width: 132, height: 40 };
const LEFT = 190;
const STEP_X = BOX.width + 16;
const RAIL_STEP = 128;
const TOP = 34;

export function topologyOf(networks: readonly Network[], vms: readonly Vm[], perRail = 6): Topology {
  const rails = networks.map((network, index) => ({
    name: network.metadata.name,
    cidr: network.spec.subnet?.cidr ?? '',
    y: TOP + index * RAIL_STEP,
    more: 0,
  }));
  const railOf = new Map(rails.map((rail) => [rail.name, rail]));
  const drawn = new Map<string, number>();
  const boxes: Box[] = [];
  for (const vm of vms) {
    const cards = (vm.status?.nics ?? []).filter((nic) => railOf.has(nic.network));
    const home = cards[0] && railOf.get(cards[0].network);
    if (!home) continue;
    const column = drawn.get(home.name) ?? 0;
    if (column >= perRail) {
      home.more += 1;
      continue;
    }
    drawn.set(home.name, column + 1);
    const x = LEFT + column * STEP_X;
    const gap = BOX.width / (cards.length + 1);
    const links = cards.map((nic, index) => ({ y: railOf.get(nic.network)!.y, x: x + gap * (index + 1), address: nic.address }));
    boxes.push({ vm: vm.metadata.name, phase: vm.status?.phase ?? 'pending', x, y: home.y + 44, links });
  }
  const columns = Math.max(1, ...drawn.values());
  return { width: LEFT + columns * STEP_X + 90, height: TOP + Math.max(1, rails.length) * RAIL_STEP - 24, rails, boxes };
}
