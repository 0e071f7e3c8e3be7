// A list of any length that stays on the server: blocks of it are fetched as they come into view, and those in view
// are asked for again every two seconds. Searching and sorting are the server's work.
import { request } from '../api/client';
import { withQuery } from '../api/query';
import { asRefusal, type Refusal } from '../api/refusal';
import type { Page } from '../api/types';
import { connection } from './connection.svelte';

export type Query = Record<string, string | number | boolean | undefined>;

const BLOCK = 100;
const EVERY_MS = 2_000;
/** Blocks out of view that are kept for scrolling back. */
const KEPT = 50;

export class PagedList<T> {
  #path: string;
  #query: Query = {};
  #blocks = new Map<number, T[]>();
  #asking = new Map<number, AbortController>();
  #view: readonly [number, number] = [0, 1];
  #member = connection.join();
  #timer: ReturnType<typeof setInterval>;
  #version = $state(0);

  /** How many there are; unknown until the first page has come. */
  total = $state<number | undefined>();
  heardAt = $state<number | undefined>();
  refusal = $state<Refusal | undefined>();

  constructor(path: string) {
    this.#path = path;
    this.#timer = setInterval(() => this.refresh(), EVERY_MS);
  }

  /** Another search or order: what was there belongs to the old one. */
  ask(query: Query) {
    this.#query = query;
    for (const flight of this.#asking.values()) flight.abort();
    this.#asking.clear();
    this.#blocks.clear();
    this.refusal = undefined;
    this.#version += 1;
    this.#fetchView(true);
  }

  at(index: number): T | undefined {
    void this.#version;
    return this.#blocks.get(Math.floor(index / BLOCK))?.[index % BLOCK];
  }

  see(first: number, end: number) {
    this.#view = [first, Math.max(end, first + 1)];
    this.#fetchView(false);
  }

  /** What is in view, again. */
  refresh() {
    if (!document.hidden) this.#fetchView(true);
  }

  close() {
    clearInterval(this.#timer);
    for (const flight of this.#asking.values()) flight.abort();
    this.#member.leave();
  }

  #fetchView(again: boolean) {
    const first = Math.floor(this.#view[0] / BLOCK);
    const last = Math.floor((this.#view[1] - 1) / BLOCK);
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
      const path = withQuery(this.#path, { ...this.#query, offset: String(block * BLOCK), limit: BLOCK });
      const page = await request<Page<T>>('GET', path, undefined, flight.signal);
      if (flight.signal.aborted) return;
      this.#blocks.set(block, page.items);
      this.total = page.total ?? page.items.length;
      this.heardAt = Date.now();
      this.refusal = undefined;
      this.#version += 1;
      this.#member.live();
    } catch (thrown) {
      if (flight.signal.aborted) return;
      const refusal = asRefusal(thrown);
      if (refusal.passes) this.#member.lost(Date.now() + EVERY_MS);
      else this.refusal = refusal;
    } finally {
      if (this.#asking.get(block) === flight) this.#asking.delete(block);
    }
  }

  #forgetFar(near: number) {
    if (this.#blocks.size <= KEPT) return;
    const far = [...this.#blocks.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near));
    for (const block of far.slice(0, this.#blocks.size - KEPT)) this.#blocks.delete(block);
  }
}
