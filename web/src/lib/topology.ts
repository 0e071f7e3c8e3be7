// Where networks, routers and VMs stand in the drawing: each network a rail, each VM a box below the first of its rails, a
// line to every rail it is on; each router a line that joins its rails. Pure. What does not fit is counted, not squeezed.
import type { Network, Port, Router, Vm } from './api/types';

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
  /** Security groups of all its cards. */
  groups: string[];
  x: number;
  y: number;
  /** The y of each rail, and the address there. */
  links: { y: number; x: number; address: string }[];
}

export interface Joint {
  router: string;
  x: number;
  top: number;
  bottom: number;
  /** Where it meets a rail; `out` leads to the outside. */
  meets: { y: number; out: boolean }[];
}

export interface Topology {
  width: number;
  height: number;
  rails: Rail[];
  boxes: Box[];
  joints: Joint[];
}

export interface Drawn {
  networks: readonly Network[];
  vms: readonly Vm[];
  ports?: readonly Port[];
  routers?: readonly Router[];
}

export const BOX = { width: 148, height: 46 };
export const JOINT = { width: 104, height: 26 };
const LEFT = 190;
const STEP_X = BOX.width + 16;
const STEP_JOINT = JOINT.width + 16;
const RAIL_STEP = 138;
const TOP = 34;

export function topologyOf({ networks, vms, ports = [], routers = [] }: Drawn, perRail = 6): Topology {
  const rails = networks.map((network, index) => ({
    name: network.metadata.name,
    cidr: network.spec.subnet?.cidr ?? '',
    y: TOP + index * RAIL_STEP,
    more: 0,
  }));
  const railOf = new Map(rails.map((rail) => [rail.name, rail]));
  const groupsOf = new Map<string, Set<string>>();
  for (const { spec, status } of ports) {
    if (!status?.vm) continue;
    const known = groupsOf.get(status.vm) ?? new Set();
    groupsOf.set(status.vm, known);
    for (const group of spec.security_groups ?? []) known.add(group);
  }
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
    const groups = [...(groupsOf.get(vm.metadata.name) ?? [])].sort();
    boxes.push({ vm: vm.metadata.name, phase: vm.status?.phase ?? 'pending', groups, x, y: home.y + 48, links });
  }
  const right = LEFT + Math.max(1, ...drawn.values()) * STEP_X + (rails.some((rail) => rail.more > 0) ? 90 : 0);
  const joints = routers.flatMap((router) => jointOf(router, railOf) ?? []);
  joints.forEach((joint, index) => (joint.x = right + index * STEP_JOINT + JOINT.width / 2));
  return { width: right + joints.length * STEP_JOINT, height: TOP + Math.max(1, rails.length) * RAIL_STEP - 24, rails, boxes, joints };
}

/** Undefined if none of its networks is drawn. */
function jointOf({ metadata, spec }: Router, railOf: Map<string, Rail>): Joint | undefined {
  const external = spec.external ?? undefined;
  const meets = [...(spec.networks ?? []).map((name) => ({ name, out: false })), ...(external ? [{ name: external, out: true }] : [])].flatMap(({ name, out }) => {
    const rail = railOf.get(name);
    return rail ? [{ y: rail.y, out }] : [];
  });
  if (meets.length === 0) return undefined;
  const heights = meets.map(({ y }) => y);
  return { router: metadata.name, x: 0, top: Math.min(...heights), bottom: Math.max(...heights, Math.min(...heights) + RAIL_STEP / 2), meets };
}
