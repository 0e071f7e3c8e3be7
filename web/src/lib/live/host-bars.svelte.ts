// The hosts of a group, or of all, as bars: one stream. Each bar is a state of its own, so that a change of one host draws one
// host, and a datacenter that changes 2,000 times a second is drawn in the time that each frame has.
import { flushSync } from 'svelte';
import { withQuery } from '../api/client';
import type { Refusal } from '../api/refusal';
import { arrivalsOf, placeOf, type Arrival } from '../fleet';
import { nameIn } from './changes';
import type { HostBar } from './overview.svelte';
import { Paced } from './paced';
import type { SseMessage } from './sse';
import { follow, type Stream } from './stream';

/** The server gives at most so many hosts in one stream. */
export const BARS_MAX = 500;
/** People look at it. */
const DRAWN_EVERY_MS = 500;
const BUDGET_MS = 5;

export class Bar {
  readonly name: string;
  value: HostBar;
  /** VMs that run elsewhere and are on their way here. */
  arriving: readonly Arrival[];

  constructor(value: HostBar, arriving: readonly Arrival[] = []) {
    this.name = value.name;
    this.value = $state.raw(value);
    this.arriving = $state.raw(arriving);
  }
}

export interface BarGroup {
  name: string;
  bars: Bar[];
}

export class HostBars {
  /** Groups, and the hosts in them, in the order of people. Replaced only when hosts come, go or change their place. */
  groups = $state.raw<readonly BarGroup[]>([]);
  complete = $state(false);
  refusal = $state<Refusal | undefined>();
  #bars = new Map<string, Bar>();
  /** What is on its way, by where it goes and then by where it is. */
  #arrivals = new Map<string, Map<string, Arrival[]>>();
  /** Since the stream began, until it has named all. */
  #first: Map<string, string> | undefined;
  /** Decoded when it is drawn: most is replaced before that. */
  #paced = new Paced<string>((_, data) => this.#draw(decoded(data)), { everyMs: DRAWN_EVERY_MS, budgetMs: BUDGET_MS });
  #stream: Stream;

  /** Of one group, or of all. */
  constructor(group?: string) {
    const query = group === undefined ? {} : { group };
    // A group without a name is asked for by an empty parameter, which withQuery leaves out.
    const unnamed = group === '' ? '&group=' : '';
    this.#stream = follow(`${withQuery('/v1/overview/hosts', { ...query, limit: BARS_MAX, watch: true })}${unnamed}`, {
      restart: () => {
        this.#paced.clear();
        this.#first = new Map();
        this.refusal = undefined;
      },
      messages: (messages) => messages.forEach((message) => this.#take(message)),
      refused: (refusal) => (this.refusal = refusal),
    });
  }

  close() {
    this.#stream.close();
    this.#paced.clear();
  }

  #take(message: SseMessage) {
    if (message.event === 'ready') this.#ready();
    else if (message.event === 'gone') this.#gone((JSON.parse(message.data) as { name: string }).name);
    else if (message.event === 'host') {
      const name = nameIn(message);
      if (name === undefined) return;
      if (this.#first) this.#first.set(name, message.data);
      else this.#paced.push(name, message.data);
    }
  }

  /** All have been named: what was not is gone. */
  #ready() {
    const first = this.#first ?? new Map<string, string>();
    this.#first = undefined;
    for (const name of this.#bars.keys()) if (!first.has(name)) this.#drop(name);
    for (const data of first.values()) this.#set(decoded(data));
    this.#regroup();
    this.complete = true;
  }

  #gone(name: string) {
    this.#drop(name);
    this.#regroup();
  }

  /** Both ends of a move belong into one frame: a VM that has arrived flies from one to the other. */
  #draw(value: HostBar) {
    const bar = this.#bars.get(value.name);
    const ends = new Set([...targetsOf(value), ...(bar ? targetsOf(bar.value) : []), ...(bar?.arriving ?? []).map(({ from }) => from)]);
    const together = [value];
    for (const end of ends) {
      const waiting = this.#paced.claim(end);
      if (waiting !== undefined) together.push(decoded(waiting));
    }
    // Not short-cut: each is taken in.
    if (together.filter((one) => this.#set(one)).length > 0) this.#regroup();
    // So that what it costs counts against the frame's budget.
    flushSync();
  }

  /** True if it is new or has changed its place. */
  #set(value: HostBar): boolean {
    const known = this.#bars.get(value.name);
    this.#route(value.name, known ? arrivalsOf(known.value) : new Map(), arrivalsOf(value));
    if (!known) {
      this.#bars.set(value.name, new Bar(value, this.#arriving(value.name)));
      return true;
    }
    const moved = placeOf(known.value.labels) !== placeOf(value.labels);
    known.value = value;
    return moved;
  }

  #drop(name: string) {
    const bar = this.#bars.get(name);
    if (!bar) return;
    this.#paced.forget(name);
    this.#bars.delete(name);
    this.#route(name, arrivalsOf(bar.value), new Map());
  }

  /** Tells hosts what is on its way to them from this one. */
  #route(from: string, before: Map<string, Arrival[]>, now: Map<string, Arrival[]>) {
    for (const to of new Set([...before.keys(), ...now.keys()])) {
      const sources = this.#arrivals.get(to) ?? new Map<string, Arrival[]>();
      this.#arrivals.set(to, sources);
      const arrivals = now.get(to);
      if (arrivals) sources.set(from, arrivals);
      else sources.delete(from);
      const bar = this.#bars.get(to);
      if (bar) bar.arriving = this.#arriving(to);
    }
  }

  #arriving(to: string): Arrival[] {
    return [...(this.#arrivals.get(to)?.values() ?? [])].flat();
  }

  #regroup() {
    const groups = new Map<string, Bar[]>();
    for (const bar of this.#bars.values()) {
      const place = placeOf(bar.value.labels);
      const group = groups.get(place);
      if (group) group.push(bar);
      else groups.set(place, [bar]);
    }
    this.groups = [...groups].map(([name, bars]) => ({ name, bars: bars.sort(byName) })).sort(byName);
  }
}

function decoded(data: string): HostBar {
  return JSON.parse(data) as HostBar;
}

function targetsOf(value: HostBar): string[] {
  return value.vms.flatMap(({ moving_to: to }) => to ?? []);
}

function byName(a: { name: string }, b: { name: string }): number {
  return a.name.localeCompare(b.name, 'en', { numeric: true });
}
