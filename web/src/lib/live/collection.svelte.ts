// Objects of one kind, kept as the server has them: by name, each change taken in at the next frame.
import { withQuery } from '../api/client';
import type { Refusal } from '../api/refusal';
import type { Resource } from '../api/types';
import { FrameBatch } from './frame';
import type { SseMessage } from './sse';
import { follow, type Stream } from './stream';

interface WatchEvent<T> {
  change: 'added' | 'modified' | 'deleted' | 'bookmark';
  revision: number;
  object?: T | null;
}

export class Collection<T extends Resource> {
  #byName = new Map<string, T>();
  #batch = new FrameBatch<WatchEvent<T>>((batch) => this.#take(batch));
  #stream: Stream | undefined;
  /** After a restart: what the new stream has named so far. The rest is gone once it is complete. */
  #seen: Set<string> | undefined;
  readonly path: string;

  /** In the order of their names. */
  items = $state.raw<readonly T[]>([]);
  /** All that existed at the beginning has come. */
  complete = $state(false);
  /** When the server last told something, if only that nothing has changed. */
  heardAt = $state<number | undefined>();
  refusal = $state<Refusal | undefined>();

  constructor(plural: string, query: Record<string, string | undefined> = {}) {
    this.path = withQuery(`/v1/${plural}`, { ...query, watch: true });
  }

  get(name: string): T | undefined {
    // The map is not reactive; the list is replaced with each change of it.
    void this.items;
    return this.#byName.get(name);
  }

  open() {
    this.#stream ??= follow(this.path, {
      restart: () => {
        this.#batch.clear();
        this.#seen = new Set();
        this.refusal = undefined;
      },
      messages: (messages) => this.#batch.push(messages.map(decode<T>)),
      refused: (refusal) => (this.refusal = refusal),
      heard: () => (this.heardAt = Date.now()),
    });
  }

  close() {
    this.#stream?.close();
    this.#stream = undefined;
    this.#batch.clear();
  }

  #take(batch: WatchEvent<T>[]) {
    let changed = false;
    for (const { change, object } of batch) {
      if (change === 'bookmark') {
        changed = this.#finish() || changed;
        continue;
      }
      if (!object) continue;
      const name = object.metadata.name;
      changed = true;
      if (change === 'deleted') this.#byName.delete(name);
      else this.#byName.set(name, object);
      this.#seen?.add(name);
    }
    if (changed) this.items = [...this.#byName.values()].sort(byName);
  }

  /** The first bookmark after a restart: what was not named any more has been deleted meanwhile. */
  #finish(): boolean {
    const seen = this.#seen;
    this.#seen = undefined;
    this.complete = true;
    if (!seen) return false;
    let changed = false;
    for (const name of [...this.#byName.keys()]) {
      if (!seen.has(name)) changed = this.#byName.delete(name) || changed;
    }
    return changed;
  }
}

function decode<T>(message: SseMessage): WatchEvent<T> {
  return JSON.parse(message.data) as WatchEvent<T>;
}

function byName(a: Resource, b: Resource): number {
  return a.metadata.name < b.metadata.name ? -1 : a.metadata.name > b.metadata.name ? 1 : 0;
}
