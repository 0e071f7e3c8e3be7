// Many updates of many things, drawn without dropping a frame: of each thing only the newest counts, none is drawn more often
// than people can follow, and in each frame only as much as fits into it; the rest is for the next.
interface Pace {
  /** No thing more often than that. */
  everyMs: number;
  /** Of each frame. */
  budgetMs: number;
}

export class Paced<T> {
  /** In the order in which they began to wait, so that none waits for ever. */
  #waiting = new Map<string, T>();
  #takenAt = new Map<string, number>();
  #scheduled = false;
  #take: (key: string, value: T) => void;
  #pace: Pace;

  constructor(take: (key: string, value: T) => void, pace: Pace) {
    this.#take = take;
    this.#pace = pace;
  }

  push(key: string, value: T) {
    this.#waiting.set(key, value);
    this.#schedule(0);
  }

  /** What waits for this thing, taken out of turn. */
  claim(key: string): T | undefined {
    const value = this.#waiting.get(key);
    this.#waiting.delete(key);
    return value;
  }

  forget(key: string) {
    this.#waiting.delete(key);
    this.#takenAt.delete(key);
  }

  clear() {
    this.#waiting.clear();
    this.#takenAt.clear();
  }

  /** All that waits, at once. */
  flush() {
    for (const [key, value] of this.#waiting) {
      this.#waiting.delete(key);
      this.#take(key, value);
    }
  }

  #schedule(inMs: number) {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const frame = () => requestAnimationFrame(() => this.#draw());
    if (inMs > 0) setTimeout(frame, inMs);
    else frame();
  }

  #draw() {
    this.#scheduled = false;
    const { everyMs, budgetMs } = this.#pace;
    const began = performance.now();
    let nextInMs = everyMs;
    for (const [key, value] of this.#waiting) {
      const restMs = (this.#takenAt.get(key) ?? -Infinity) + everyMs - began;
      if (restMs > 0) {
        nextInMs = Math.min(nextInMs, restMs);
        continue;
      }
      this.#waiting.delete(key);
      this.#takenAt.set(key, began);
      this.#take(key, value);
      if (performance.now() - began < budgetMs) continue;
      nextInMs = 0;
      break;
    }
    if (this.#waiting.size > 0) this.#schedule(nextInMs);
  }
}
