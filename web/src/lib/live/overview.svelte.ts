// The datacenter's overview as the server sums it up, and the hosts of one group as bars: two streams, whatever the size
// of the datacenter. Shapes after docs/api.md.
import { withQuery } from '../api/query';
import type { Refusal } from '../api/refusal';
import type { VmPhase } from '../api/types';
import type { Wrong } from '../wrong';
import { FrameBatch } from './frame';
import type { SseMessage } from './sse';
import { follow, type Stream } from './stream';

export interface Totals {
  hosts: { total: number; cordoned: number } & Record<string, number>;
  vms: { total: number } & Record<string, number>;
  cpu: { capacity_cores: number; assigned_cores: number; used_cores: number };
  memory: { capacity_bytes: number; assigned_bytes: number; used_bytes: number };
}

export type GroupTotals = Totals & { name: string };

export interface Overview {
  at: string;
  totals: Totals;
  groups: GroupTotals[];
  wrong: Wrong[];
  wrong_total: number;
}

type OverviewChange = Partial<Overview> & { gone_groups?: string[] };

export interface HostBar {
  name: string;
  state: string;
  cordoned: boolean;
  labels: Record<string, string>;
  cpu: Totals['cpu'];
  memory: Totals['memory'];
  last_seen?: string | null;
  vms: { name: string; phase: VmPhase; cpus: number; memory_bytes: number; moving_to?: string | null }[];
  vms_total: number;
}

const NAME = /"name":"([^"]+)"/;

/** Without what a later message of the same batch says anew; each tells all of one host, and its name comes first. */
function newest(batch: SseMessage[]): SseMessage[] {
  const byHost = new Map<string, SseMessage>();
  const rest: SseMessage[] = [];
  for (const message of batch) {
    const name = message.event === 'ready' ? undefined : NAME.exec(message.data)?.[1];
    if (name === undefined) rest.push(message);
    else byHost.set(name, message);
  }
  return [...byHost.values(), ...rest];
}

export class OverviewFeed {
  value = $state.raw<Overview | undefined>();
  refusal = $state<Refusal | undefined>();
  #stream: Stream;

  constructor() {
    this.#stream = follow('/v1/overview?watch=true', {
      restart: () => (this.refusal = undefined),
      messages: (messages) => messages.forEach((message) => this.#take(message)),
      refused: (refusal) => (this.refusal = refusal),
    });
  }

  close() {
    this.#stream.close();
  }

  #take({ event, data }: SseMessage) {
    if (event === 'overview') this.value = JSON.parse(data) as Overview;
    else if (event === 'changed' && this.value) this.value = changed(this.value, JSON.parse(data) as OverviewChange);
  }
}

export function changed(before: Overview, change: OverviewChange): Overview {
  const groups = new Map(before.groups.map((group) => [group.name, group]));
  for (const group of change.groups ?? []) groups.set(group.name, group);
  for (const name of change.gone_groups ?? []) groups.delete(name);
  return {
    at: change.at ?? before.at,
    totals: change.totals ?? before.totals,
    groups: [...groups.values()].sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true })),
    wrong: change.wrong ?? before.wrong,
    wrong_total: change.wrong_total ?? before.wrong_total,
  };
}

/** The server gives at most so many hosts in one stream. */
export const BARS_MAX = 500;

/** A datacenter that changes 2,000 times a second is looked at by people. */
const DRAWN_EVERY_MS = 500;

export class HostBars {
  items = $state.raw<readonly HostBar[]>([]);
  complete = $state(false);
  refusal = $state<Refusal | undefined>();
  #byName = new Map<string, HostBar>();
  #seen: Set<string> | undefined;
  #batch = new FrameBatch<SseMessage>((batch) => this.#take(batch), DRAWN_EVERY_MS);
  #stream: Stream;

  /** Of one group, or of all. */
  constructor(group?: string) {
    const query = group === undefined ? {} : { group };
    // A group without a name is asked for by an empty parameter, which withQuery leaves out.
    const unnamed = group === '' ? '&group=' : '';
    this.#stream = follow(`${withQuery('/v1/overview/hosts', { ...query, limit: BARS_MAX, watch: true })}${unnamed}`, {
      restart: () => {
        this.#batch.clear();
        this.#seen = new Set();
        this.refusal = undefined;
      },
      messages: (messages) => this.#batch.push(messages),
      refused: (refusal) => (this.refusal = refusal),
    });
  }

  close() {
    this.#stream.close();
  }

  #take(batch: SseMessage[]) {
    for (const { event, data } of newest(batch)) {
      if (event === 'ready') this.#ready();
      else if (event === 'gone') this.#byName.delete((JSON.parse(data) as { name: string }).name);
      else if (event === 'host') {
        const bar = JSON.parse(data) as HostBar;
        this.#byName.set(bar.name, bar);
        this.#seen?.add(bar.name);
      }
    }
    this.items = [...this.#byName.values()];
  }

  /** All have been named: what was not is gone. */
  #ready() {
    for (const name of [...this.#byName.keys()]) if (this.#seen && !this.#seen.has(name)) this.#byName.delete(name);
    this.#seen = undefined;
    this.complete = true;
  }
}
