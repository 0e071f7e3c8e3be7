// Whether what is on the screen is what is so. All streams of the page report here; it is live only if all of them are.

type State = 'quiet' | 'live' | 'connecting' | 'lost';

export interface Member {
  live(): void;
  lost(retryAt: number): void;
  leave(): void;
}

interface Standing {
  state: 'connecting' | 'live' | 'lost';
  retryAt: number;
}

class Connection {
  #members = new Map<symbol, Standing>();
  #waiting = new Set<() => void>();
  state = $state<State>('quiet');
  /** Since when it has been lost; after that nothing on the screen is known to be true. */
  lostAt = $state<number | undefined>();
  retryAt = $state<number | undefined>();

  join(): Member {
    const key = Symbol('stream');
    this.#members.set(key, { state: 'connecting', retryAt: 0 });
    this.#tell();
    const set = (standing: Standing) => {
      if (!this.#members.has(key)) return;
      this.#members.set(key, standing);
      this.#tell();
    };
    return {
      live: () => set({ state: 'live', retryAt: 0 }),
      lost: (retryAt) => set({ state: 'lost', retryAt }),
      leave: () => {
        this.#members.delete(key);
        this.#tell();
      },
    };
  }

  /** Tries again at once. */
  retry() {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const go of waiting) go();
  }

  /** Gives the way to take it back. */
  whenRetried(go: () => void): () => void {
    this.#waiting.add(go);
    return () => this.#waiting.delete(go);
  }

  #tell() {
    const standings = [...this.#members.values()];
    const lost = standings.filter((standing) => standing.state === 'lost');
    if (lost.length > 0) {
      this.lostAt ??= Date.now();
      this.retryAt = Math.min(...lost.map((standing) => standing.retryAt));
      this.state = 'lost';
      return;
    }
    this.lostAt = undefined;
    this.retryAt = undefined;
    if (standings.length === 0) this.state = 'quiet';
    else this.state = standings.some((standing) => standing.state === 'connecting') ? 'connecting' : 'live';
  }
}

export const connection = new Connection();
