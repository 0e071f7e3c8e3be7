// A list whose kind the server does not search and sort: all of it is watched, and searched and sorted here. For kinds of
// which there are few.
import type { Resource } from '../api/types';
import { Collection } from './collection.svelte';
import type { Query } from './paged.svelte';

export class WatchedList<T extends Resource> {
  #all: Collection<T>;
  #query = $state.raw<Query>({});
  #rows = $derived.by(() => chosen(this.#all.items, this.#query));

  constructor(plural: string) {
    this.#all = new Collection<T>(plural);
    this.#all.open();
  }

  get total(): number | undefined {
    return this.#all.complete ? this.#rows.length : undefined;
  }

  /** What is watched is as it is now; a lost connection is told by the page's frame. */
  get heardAt(): undefined {
    return undefined;
  }

  get refusal() {
    return this.#all.refusal;
  }

  at(index: number): T | undefined {
    return this.#rows[index];
  }

  ask(query: Query) {
    this.#query = query;
  }

  see() {}

  refresh() {}

  close() {
    this.#all.close();
  }
}

function chosen<T extends Resource>(items: readonly T[], query: Query): T[] {
  const { q, sort, ...where } = query;
  const text = String(q ?? '').toLowerCase();
  const conditions = Object.entries(where).filter(([, value]) => value !== undefined && value !== '');
  const found = items.filter((item) => {
    const words = JSON.stringify([item.metadata.name, item.metadata.labels, (item as { status?: unknown }).status, (item as { spec?: unknown }).spec]);
    return (text === '' || words.toLowerCase().includes(text)) && conditions.every(([name, value]) => field(item, name) === value);
  });
  const order = String(sort ?? 'name');
  const name = order.replace(/^-/, '');
  const turn = order.startsWith('-') ? -1 : 1;
  return found.sort((a, b) => turn * compare(field(a, name), field(b, name)));
}

/** By the name that the API gives it, wherever it stands. */
function field(item: Resource, name: string): unknown {
  const { metadata, spec, status } = item as Resource & { spec?: object; status?: object };
  return { ...spec, ...status, ...metadata }[name as never];
}

function compare(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a ?? '').localeCompare(String(b ?? ''), 'en', { numeric: true });
}
