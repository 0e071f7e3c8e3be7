// One answer of the API, asked for again and again while somebody looks: for what changes without a revision (figures,
// progress) and so comes in no watch. A question that gets no answer counts as a lost connection.
import { onDestroy } from 'svelte';
import { send, type Call } from '../api/client';
import { asRefusal, type Refusal } from '../api/refusal';
import { connection } from './connection.svelte';

const PAUSE_MAX_MS = 8_000;

export class Poll<T> {
  #call: () => Call<T>;
  #everyMs: number;
  #member = connection.join();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #flight: AbortController | undefined;
  #failures = 0;
  #closed = false;
  #forget: (() => void) | undefined;

  value = $state.raw<T | undefined>();
  refusal = $state<Refusal | undefined>();
  /** When the value came. */
  heardAt = $state<number | undefined>();

  constructor(call: () => Call<T>, everyMs: number) {
    this.#call = call;
    this.#everyMs = everyMs;
    document.addEventListener('visibilitychange', this.#seen);
    void this.refresh();
  }

  /** Asks now; an answer that is still to come is not waited for. */
  async refresh(): Promise<void> {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#forget?.();
    this.#flight?.abort();
    const flight = new AbortController();
    this.#flight = flight;
    const limit = setTimeout(() => flight.abort(), 10_000);
    try {
      this.value = await send(this.#call(), flight.signal);
      this.heardAt = Date.now();
      this.refusal = undefined;
      this.#failures = 0;
      this.#member.live();
    } catch (thrown) {
      if (this.#closed || this.#flight !== flight) return;
      this.#failed(flight.signal.aborted ? undefined : asRefusal(thrown));
    } finally {
      clearTimeout(limit);
    }
    if (this.#flight === flight) this.#next();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#flight?.abort();
    this.#forget?.();
    this.#member.leave();
    document.removeEventListener('visibilitychange', this.#seen);
  }

  #failed(refusal: Refusal | undefined) {
    if (refusal && !refusal.passes) {
      this.refusal = refusal;
      this.#member.live();
      return;
    }
    this.#failures += 1;
    this.#member.lost(Date.now() + this.#pauseMs());
  }

  #pauseMs(): number {
    return this.#failures === 0 ? this.#everyMs : Math.min(PAUSE_MAX_MS, this.#everyMs * 2 ** this.#failures);
  }

  #next() {
    if (this.#closed || document.hidden) return;
    this.#timer = setTimeout(() => void this.refresh(), this.#pauseMs());
    if (this.#failures > 0) this.#forget = connection.whenRetried(() => void this.refresh());
  }

  #seen = () => {
    if (!document.hidden) void this.refresh();
  };
}

/** For use while a component is initialised; ends with it. */
export function poll<T>(call: () => Call<T>, everyMs: number): Poll<T> {
  const held = new Poll<T>(call, everyMs);
  onDestroy(() => held.close());
  return held;
}
