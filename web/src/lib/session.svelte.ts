// Who is logged in, and what he may do. The session itself is a cookie that no script can read.
import { call, send, setCsrfToken, whenUnauthenticated } from './api/client';
import { asRefusal, type Refusal } from './api/refusal';
import type { SessionInfo } from './api/types';
import { dropAll } from './live/shared.svelte';

/** How often a session in use is told so; the server ends one that is idle for an hour. */
const KEEP_MS = 5 * 60_000;

class Session {
  state = $state<'unknown' | 'none' | 'open'>('unknown');
  user = $state<SessionInfo['user'] | undefined>();
  datacenter = $state('');
  version = $state('');
  /** Why there is none, if it ended by itself. */
  ended = $state(false);
  refusal = $state<Refusal | undefined>();
  #usedAt = 0;

  constructor() {
    whenUnauthenticated(() => this.#close(this.state === 'open'));
    const used = () => (this.#usedAt = Date.now());
    addEventListener('pointerdown', used, { passive: true });
    addEventListener('keydown', used, { passive: true });
    setInterval(() => {
      if (this.state === 'open' && Date.now() - this.#usedAt < KEEP_MS) void this.look();
    }, KEEP_MS);
  }

  get mayChange(): boolean {
    return this.user?.role === 'admin' || this.user?.role === 'operator';
  }

  get isAdmin(): boolean {
    return this.user?.role === 'admin';
  }

  get mayOpenConsoles(): boolean {
    return this.user?.consoles ?? (this.user !== undefined && this.user.role !== 'viewer');
  }

  /** Asks the server; a page that was reloaded finds its session again. */
  async look() {
    try {
      this.#open(await send(call('GET', '/v1/session')));
    } catch (thrown) {
      const refusal = asRefusal(thrown);
      if (refusal.problem.status !== 401) this.refusal = refusal;
    }
  }

  /** Throws the refusal. */
  async logIn(name: string, password: string) {
    this.#open(await send(call('POST', '/v1/session', { body: { name, password } })));
  }

  async logOut() {
    await send(call('DELETE', '/v1/session'));
    this.#close(false);
  }

  #open(answer: SessionInfo) {
    setCsrfToken(answer.csrf_token ?? undefined);
    this.user = answer.user;
    this.datacenter = answer.datacenter;
    this.version = answer.version;
    this.ended = false;
    this.refusal = undefined;
    this.state = 'open';
  }

  #close(ended: boolean) {
    setCsrfToken(undefined);
    dropAll();
    this.user = undefined;
    this.ended = ended;
    this.state = 'none';
  }
}

export const session = new Session();
