// Many updates, one drawing: whatever comes between two frames is handed on together. A page that is not shown gets no
// frames, so a slow timer stands in; without it updates would pile up in the background.
const HIDDEN_MS = 1_000;

export class FrameBatch<T> {
  #pending: T[] = [];
  #scheduled = false;
  #take: (batch: T[]) => void;

  #everyMs: number;
  #takenAt = 0;

  /** With `everyMs` no more often than that: what nobody can follow need not be drawn. */
  constructor(take: (batch: T[]) => void, everyMs = 0) {
    this.#take = take;
    this.#everyMs = everyMs;
  }

  push(items: readonly T[]) {
    for (const item of items) this.#pending.push(item);
    if (this.#scheduled) return;
    this.#scheduled = true;
    const flush = () => this.flush();
    if (typeof document !== 'undefined' && document.hidden) setTimeout(flush, HIDDEN_MS);
    else {
      const rest = this.#takenAt + this.#everyMs - Date.now();
      if (rest > 0) setTimeout(() => requestAnimationFrame(flush), rest);
      else requestAnimationFrame(flush);
    }
  }

  flush() {
    this.#scheduled = false;
    if (this.#pending.length === 0) return;
    const batch = this.#pending;
    this.#pending = [];
    this.#takenAt = Date.now();
    this.#take(batch);
  }

  clear() {
    this.#pending = [];
  }
}
