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
    ...before,
    revision: change.revision,
    at: change.at ?? before.at,
    totals: change.totals ?? before.totals,
    groups: [...groups.values()].sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true })),
    wrong: change.wrong ?? before.wrong,
    wrong_total: change.wrong_total ?? before.wrong_total,
  };
}
