import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Resource } from '../../src/lib/api/types';
import { Collection } from '../../src/lib/live/collection.svelte';
import { connection } from '../../src/lib/live/connection.svelte';
import { FrameBatch } from '../../src/lib/live/frame';

/** Streams as a server would give them: each connection can be written to and broken off. */
class Server {
  requests: { path: string; lastId: string | null; write: (text: string) => void; end: () => void }[] = [];
  down = false;
  tooOld = false;

  fetch = async (path: string, init: RequestInit): Promise<Response> => {
    if (this.down) throw new TypeError('no network');
    const lastId = new Headers(init.headers).get('Last-Event-ID');
    if (this.tooOld && lastId) {
      this.tooOld = false;
      const problem = { type: 'urn:gantry:problem:revision-too-old', title: '', status: 409, class: 'conflict', detail: 'too old' };
      return new Response(JSON.stringify(problem), { status: 409, headers: { 'Content-Type': 'application/problem+json' } });
    }
    let controller!: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({ start: (made) => void (controller = made) });
    init.signal?.addEventListener('abort', () => controller.error(new DOMException('aborted', 'AbortError')));
    this.requests.push({
      path,
      lastId,
      write: (text) => controller.enqueue(new TextEncoder().encode(text)),
      end: () => controller.close(),
    });
    return new Response(body, { status: 200 });
  };

  get last() {
    return this.requests.at(-1)!;
  }
}

const message = (change: string, name: string, id?: number) =>
  `event: ${change}\n${id ? `id: ${id}\n` : ''}data: ${JSON.stringify({ change, revision: id ?? 0, object: { metadata: { name } } })}\n\n`;
const bookmark = (id: number) => `event: bookmark\nid: ${id}\ndata: ${JSON.stringify({ change: 'bookmark', revision: id })}\n\n`;

let server: Server;
let open: Collection<Resource>[] = [];

beforeEach(() => {
  server = new Server();
  vi.stubGlobal('fetch', server.fetch);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'requestAnimationFrame', 'Date'] });
});

afterEach(() => {
  for (const collection of open) collection.close();
  open = [];
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function collection() {
  const made = new Collection<Resource>('vms');
  made.open();
  open.push(made);
  return made;
}

const settle = (ms = 50) => vi.advanceTimersByTimeAsync(ms);
const names = (of: Collection<Resource>) => of.items.map((item) => item.metadata.name);

describe('a collection', () => {
  it('takes in what the watch tells, in the order of names', async () => {
    const vms = collection();
    await settle();
    server.last.write(message('added', 'b') + message('added', 'a'));
    await settle();
    expect(names(vms)).toEqual(['a', 'b']);
    expect(vms.complete).toBe(false);
    server.last.write(bookmark(5) + message('deleted', 'a', 6));
    await settle();
    expect(names(vms)).toEqual(['b']);
    expect(vms.complete).toBe(true);
    expect(connection.state).toBe('live');
  });

  it('says that the connection is lost, and goes on after the last id', async () => {
    const vms = collection();
    await settle();
    server.last.write(message('added', 'a') + bookmark(5));
    await settle();
    server.down = true;
    server.last.end();
    await settle(600);
    expect(connection.state).toBe('lost');
    expect(names(vms)).toEqual(['a']);
    server.down = false;
    await settle(10_000);
    expect(server.last.lastId).toBe('5');
    server.last.write(message('modified', 'b', 6));
    await settle();
    expect(connection.state).toBe('live');
    expect(names(vms)).toEqual(['a', 'b']);
  });

  it('begins again when its revision is too old, and forgets what was deleted meanwhile', async () => {
    const vms = collection();
    await settle();
    server.last.write(message('added', 'a') + message('added', 'b') + bookmark(5));
    await settle();
    server.tooOld = true;
    server.last.end();
    await settle(1_000);
    expect(server.last.lastId).toBeNull();
    expect(names(vms)).toEqual(['a', 'b']);
    server.last.write(message('added', 'b') + bookmark(900));
    await settle();
    expect(names(vms)).toEqual(['b']);
  });

  it('takes a silent connection for a dead one', async () => {
    collection();
    await settle();
    server.last.write(bookmark(5));
    await settle(11_000);
    expect(connection.state).toBe('live');
    server.down = true;
    await settle(3_000);
    expect(connection.state).toBe('lost');
  });

  it('tries again at once when asked to', async () => {
    collection();
    await settle();
    server.down = true;
    server.last.end();
    await settle(5_000);
    const before = server.requests.length;
    server.down = false;
    connection.retry();
    await settle(1);
    expect(server.requests.length).toBe(before + 1);
  });
});

describe('FrameBatch', () => {
  it('hands 2,000 updates on at once', async () => {
    const batches: number[] = [];
    const batch = new FrameBatch<number>((items) => batches.push(items.length));
    for (let n = 0; n < 2_000; n += 1) batch.push([n]);
    await settle(100);
    expect(batches).toEqual([2_000]);
  });
});
