// Many updates, one drawing: whatever comes between two frames is handed on together. A page that is not shown gets no
// frames, so a slow timer stands in; without it updates would pile up in the background.
const HIDDEN_MS = 1_000;

export class FrameBatch<T> {
  #pending: T[] = [];
  #scheduled = false;
  #take: (batch: T[]) => void;

  constructor(take: (batch: T[]) => void) {
    this.#take = take;
  }

  push(items: readonly T[]) {
    for (const item of items) this.#pending.push(item);
    if (this.#scheduled) return;
    this.#scheduled = true;
    const flush = () => this.flush();
    if (typeof document !== 'undefined' && document.hidden) setTimeout(flush, HIDDEN_MS);
    else requestAnimationFrame(flush);
  }

  flush() {
    this.#scheduled = false;
    if (this.#pending.length === 0) return;
    const batch = this.#pending;
    this.#pending = [];
    this.#take(batch);
  }

  clear() {
    this.#pending = [];
  }
}
