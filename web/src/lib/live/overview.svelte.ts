// The datacenter's overview as the server sums it up: one stream, whatever the size of the datacenter.
import type { Refusal } from '../api/refusal';
import type { components } from '../api/schema';
import type { SseMessage } from './sse';
import { follow, type Stream } from './stream';

type Schemas = components['schemas'];
export type Totals = Schemas['Totals'];
export type GroupTotals = Schemas['Group'];
export type Overview = Schemas['Overview'];
export type HostBar = Schemas['HostBar'];
type OverviewChange = Schemas['OverviewChange'];

export class OverviewFeed {
  value = $state.raw<Overview | undefined>();
  refusal = $state<Refusal | undefined>();
  /** When the server last told something, if only that nothing has changed. */
  heardAt = $state<number | undefined>();
  #stream: Stream;

  constructor() {
    this.#stream = follow('/v1/overview?watch=true', {
      heard: () => (this.heardAt = Date.now()),
      restart: () => (this.refusal = undefined),
      messages: (messages) => messages.forEach((message) => this.#take(message)),
      refused: (refusal) => (this.refusal = refusal),
    });
  }

  close() {
    this.#stream.close();
  }

  #take({ event, data }: SseMessage) {
    if (event === 'overview') this.value = begun(JSON.parse(data) as Overview);
    else if (event === 'changed' && this.value) this.value = changed(this.value, JSON.parse(data) as OverviewChange);
  }
}

/** `rack-2` before `rack-10`. */
const { compare } = new Intl.Collator('en', { numeric: true });

function begun(overview: Overview): Overview {
  return { ...overview, groups: overview.groups.sort((a, b) => compare(a.name, b.name)) };
}

function groupsAfter(before: Overview, { groups: newer = [], gone_groups: gone = [] }: OverviewChange): GroupTotals[] {
  // Thousands of them are not sorted again because the figures of some have changed.
  if (newer.length === 0 && gone.length === 0) return before.groups;
  const groups = new Map(before.groups.map((group) => [group.name, group]));
  const unknown = newer.some(({ name }) => !groups.has(name));
  for (const group of newer) groups.set(group.name, group);
  for (const name of gone) groups.delete(name);
  const after = [...groups.values()];
  return unknown ? after.sort((a, b) => compare(a.name, b.name)) : after;
}

export function changed(before: Overview, change: OverviewChange): Overview {
  return {
    ...before,
    revision: change.revision,
    at: change.at ?? before.at,
    totals: change.totals ?? before.totals,
    groups: groupsAfter(before, change),
    wrong: change.wrong ?? before.wrong,
    wrong_total: change.wrong_total ?? before.wrong_total,
  };
}
