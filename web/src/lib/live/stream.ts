// One stream of events that heals itself. Owned here: connecting, noticing silence, growing pauses, resuming after the
// last id, beginning again when that is too old. What the events mean is the follower's business.
import { checked } from '../api/client';
import { Refusal, unreachable } from '../api/refusal';
import { connection } from './connection.svelte';
import { SseParser, type SseMessage } from './sse';

export interface Follower {
  /** The stream begins from nothing: what is known is not to be relied on. */
  restart(): void;
  messages(messages: SseMessage[]): void;
  /** The server will not give this stream, now or later. */
  refused(refusal: Refusal): void;
  /** Something came, if only a sign of life: what was told so far is so. */
  heard?(): void;
}

/** The server shows life at least every 10 s (bookmarks, comments); longer without a byte is a dead connection. */
const SILENCE_MS = 12_000;
const PAUSE_FIRST_MS = 500;
const PAUSE_MAX_MS = 8_000;

export interface Stream {
  close(): void;
}

/** With `from` only what changed after that revision, unless that is too old: then it begins from nothing. */
export function follow(path: string, follower: Follower, from?: number): Stream {
  const ended = new AbortController();
  const member = connection.join();
  let lastId = from === undefined ? undefined : String(from);
  void run();
  return {
    close() {
      ended.abort();
      member.leave();
    },
  };

  async function run() {
    let pauseMs = PAUSE_FIRST_MS;
    while (!ended.signal.aborted) {
      try {
        await once(() => (pauseMs = PAUSE_FIRST_MS));
      } catch (thrown) {
        if (ended.signal.aborted) return;
        // Whatever is no answer of the server's is a connection that broke.
        const refusal = thrown instanceof Refusal ? thrown : unreachable();
        if (refusal.code === 'revision-too-old') {
          lastId = undefined;
          continue;
        }
        if (!refusal.passes) {
          member.leave();
          follower.refused(refusal);
          return;
        }
      }
      if (ended.signal.aborted) return;
      member.lost(Date.now() + pauseMs);
      await pause(pauseMs);
      pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
    }
  }

  /** Follows until the stream ends. */
  async function once(healthy: () => void): Promise<void> {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    ended.signal.addEventListener('abort', stop);
    let silence = setTimeout(stop, SILENCE_MS);
    try {
      const resume: Record<string, string> = lastId === undefined ? {} : { 'Last-Event-ID': lastId };
      const response = await checked(
        await fetch(path, {
          credentials: 'same-origin',
          cache: 'no-store',
          headers: { Accept: 'text/event-stream', ...resume },
          signal: attempt.signal,
        }),
      );
      if (lastId === undefined) follower.restart();
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new SseParser();
      member.live();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(stop, SILENCE_MS);
        healthy();
        follower.heard?.();
        const messages = parser.push(value);
        lastId = messages.findLast((message) => message.id)?.id ?? lastId;
        if (messages.length > 0) follower.messages(messages);
      }
    } catch (thrown) {
      throw attempt.signal.aborted ? unreachable() : thrown;
    } finally {
      clearTimeout(silence);
      ended.signal.removeEventListener('abort', stop);
      attempt.abort();
    }
  }

  /** Waits, or until the browser says that there is a network again. */
  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const go = () => {
        clearTimeout(timer);
        removeEventListener('online', go);
        ended.signal.removeEventListener('abort', go);
        forget();
        resolve();
      };
      const timer = setTimeout(go, ms);
      addEventListener('online', go);
      ended.signal.addEventListener('abort', go);
      const forget = connection.whenRetried(go);
    });
  }
}
