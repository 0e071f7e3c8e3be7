// A list of any length that stays on the server. Blocks of it are fetched as they come into view; searching and sorting are
// the server's work. What is in view is live: a watch tells each change. A change of a row is drawn at once; where rows come,
// go or change places, the server is asked for the blocks in view again, so that order and count are always its own.
import { send, withQuery, type Call } from '../api/client';
import { asRefusal, type Refusal } from '../api/refusal';
import type { Listed, Page, Plural, Resource } from '../api/types';
import { decode, nameIn, newest } from './changes';
import { connection } from './connection.svelte';
import { FrameBatch } from './frame';
import type { SseMessage } from './sse';
import { follow, type Stream } from './stream';

export type Query = Record<string, string | number | boolean | undefined>;

const BLOCK = 100;
/** Blocks out of view that are kept for scrolling back. */
const KEPT = 50;
/** A longer list is watched only where it is looked at; whether rows came or went elsewhere is then asked every so often. */
const WATCHED_WHOLE = 2_000;
const ASKED_EVERY_MS = 10_000;
/** Many come and go at once: one question for all of them. */
const GATHER_MS = 400;
/** Somebody who scrolls does not stay. */
const STAY_MS = 300;
const RETRY_MS = 2_000;

export class PagedList<K extends Plural> {
  #plural: K;
  #query: Query = {};
  #blocks = new Map<number, Listed[K][]>();
  #asking = new Map<number, AbortController>();
  #view: readonly [number, number] = [0, 1];
  #member = connection.join();
  #version = $state(0);
  #stream: Stream | undefined;
  #watched = '';
  #batch = new FrameBatch<SseMessage>((batch) => this.#take(batch));
  #again: ReturnType<typeof setTimeout> | undefined;
  #moved: ReturnType<typeof setTimeout> | undefined;
  #timer: ReturnType<typeof setInterval>;
  /** The oldest state of what is in view. */
  #revision = 0;

  /** How many there are; unknown until the first page has come. */
  total = $state<number | undefined>();
  heardAt = $state<number | undefined>();
  refusal = $state<Refusal | undefined>();

  /** With `figuresEveryMs` for kinds with figures that are measured, which no watch tells of. */
  constructor(plural: K, figuresEveryMs = ASKED_EVERY_MS) {
    this.#plural = plural;
    this.#timer = setInterval(() => this.#lookAgain(figuresEveryMs), figuresEveryMs);
  }

  /** Another search or order: what was there belongs to the old one. */
  ask(query: Query) {
    this.#query = query;
    for (const flight of this.#asking.values()) flight.abort();
    this.#asking.clear();
    this.#blocks.clear();
    this.#unwatch();
    this.refusal = undefined;
    this.#version += 1;
    this.#fetchView(true);
  }

  at(index: number): Listed[K] | undefined {
    void this.#version;
    return this.#blocks.get(Math.floor(index / BLOCK))?.[index % BLOCK];
  }

  /** As many of the first as have come. */
  first(count: number): Listed[K][] {
    const found: Listed[K][] = [];
    for (let index = 0; index < count; index += 1) {
      const item = this.at(index);
      if (item === undefined) break;
      found.push(item);
    }
    return found;
  }

  see(first: number, end: number) {
    this.#view = [first, Math.max(end, first + 1)];
    this.#fetchView(false);
    clearTimeout(this.#moved);
    this.#moved = setTimeout(() => this.#watch(), STAY_MS);
  }

  /** What is in view, again. */
  refresh() {
    if (!document.hidden) this.#fetchView(true);
  }

  close() {
    clearInterval(this.#timer);
    clearTimeout(this.#again);
    clearTimeout(this.#moved);
    for (const flight of this.#asking.values()) flight.abort();
    this.#unwatch();
    this.#member.leave();
  }

  #lookAgain(everyMs: number) {
    if (everyMs < ASKED_EVERY_MS || (this.total ?? 0) > WATCHED_WHOLE) this.refresh();
  }

  #range(): [number, number] {
    return [Math.floor(this.#view[0] / BLOCK), Math.floor((this.#view[1] - 1) / BLOCK)];
  }

  #fetchView(again: boolean) {
    const [first, last] = this.#range();
    // Scrolling fast leaves blocks behind that nobody waits for any more.
    for (const [block, flight] of this.#asking) {
      if (block < first || block > last) {
        flight.abort();
        this.#asking.delete(block);
      }
    }
    for (let block = first; block <= last; block += 1) {
      if (!this.#asking.has(block) && (again || !this.#blocks.has(block))) void this.#fetch(block);
    }
    this.#forgetFar(first);
  }

  async #fetch(block: number) {
    const flight = new AbortController();
    this.#asking.set(block, flight);
    try {
      const path = withQuery(`/v1/${this.#plural}`, { ...this.#query, offset: String(block * BLOCK), limit: BLOCK });
      const call: Call<Page<Listed[K]>> = { method: 'GET', route: `/v1/${this.#plural}`, path };
      const page = await send(call, flight.signal);
      if (flight.signal.aborted) return;
      this.#blocks.set(block, page.items);
      this.#revision = Math.min(this.#revision || page.revision, page.revision);
      this.total = page.total ?? page.items.length;
      this.heardAt = Date.now();
      this.refusal = undefined;
      this.#version += 1;
      this.#member.live();
      this.#watch();
    } catch (thrown) {
      if (flight.signal.aborted) return;
      this.#failed(asRefusal(thrown));
    } finally {
      if (this.#asking.get(block) === flight) this.#asking.delete(block);
    }
  }

  #failed(refusal: Refusal) {
    if (!refusal.passes) {
      this.refusal = refusal;
      return;
    }
    this.#member.lost(Date.now() + RETRY_MS);
    this.#askSoon(RETRY_MS);
  }

  /** Follows what is in view; all of it, if there is not too much. */
  #watch() {
    const [first, last] = this.#range();
    const whole = (this.total ?? 0) <= WATCHED_WHOLE;
    const inView: string[] = [];
    for (let block = first; block <= last && !whole; block += 1) inView.push(...(this.#blocks.get(block) ?? []).map(nameOf));
    if (this.total === undefined || (!whole && inView.length === 0)) return;
    const { sort: _, ...conditions } = this.#query;
    const query = { ...conditions, names: whole ? undefined : inView.sort().join(','), watch: true };
    const path = withQuery(`/v1/${this.#plural}`, query);
    if (path === this.#watched) return;
    this.#unwatch();
    this.#watched = path;
    const follower = {
      // Whatever came or went before it began is in an answer that comes after that.
      restart: () => this.#askSoon(GATHER_MS),
      messages: (messages: SseMessage[]) => this.#batch.push(messages),
      refused: (refusal: Refusal) => (this.refusal = refusal),
      heard: () => (this.heardAt = Date.now()),
    };
    // Resumed under conditions it would tell of each change of what does not meet them.
    const resumes = Object.values(query).filter(Boolean).length === 1;
    this.#stream = follow(path, follower, resumes ? this.#revision : undefined);
  }

  #unwatch() {
    this.#stream?.close();
    this.#stream = undefined;
    this.#watched = '';
    this.#revision = 0;
    this.#batch.clear();
  }

  #take(batch: SseMessage[]) {
    const places = new Map<string, [Listed[K][], number]>();
    for (const items of this.#blocks.values()) items.forEach((item, at) => places.set(nameOf(item), [items, at]));
    let drawn = false;
    for (const message of newest(batch)) {
      const name = nameIn(message);
      if (name === undefined) continue;
      const place = places.get(name);
      if (!place || message.event === 'deleted') {
        // One that is not in view may still have come into it.
        if (place || message.event !== 'modified') this.#askSoon(GATHER_MS);
        continue;
      }
      const { object } = decode<Resource>(message);
      if (!object) continue;
      place[0][place[1]] = object as Listed[K];
      drawn = true;
    }
    if (!drawn) return;
    this.#version += 1;
    // By what it is sorted may be what has changed.
    if (!/^-?(name|created_at)$/.test(String(this.#query['sort'] ?? 'name'))) this.#askSoon(RETRY_MS);
  }

  #askSoon(ms: number) {
    this.#again ??= setTimeout(() => {
      this.#again = undefined;
      this.refresh();
    }, ms);
  }

  #forgetFar(near: number) {
    if (this.#blocks.size <= KEPT) return;
    const far = [...this.#blocks.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near));
    for (const block of far.slice(0, this.#blocks.size - KEPT)) this.#blocks.delete(block);
  }
}

function nameOf(item: unknown): string {
  return (item as Resource).metadata.name;
}
