import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { PagedList } from '../../src/lib/live/paged.svelte';

/** A controller with VMs whose names are given; each watch can be written to. */
class Controller {
  names: string[] = [];
  asked: URL[] = [];
  watches: { url: URL; write: (text: string) => void }[] = [];

  fetch = async (input: Request | string, init?: RequestInit): Promise<Response> => {
    const url = new URL(typeof input === 'string' ? input : input.url, 'https://controller');
    if (url.searchParams.has('watch')) return this.#watch(url, init);
    this.asked.push(url);
    const [offset, limit] = ['offset', 'limit'].map((name) => Number(url.searchParams.get(name)));
    const items = this.names.slice(offset, offset! + limit!).map((name) => vm(name));
    return Response.json({ items, revision: 7, total: this.names.length });
  };

  #watch(url: URL, init?: RequestInit): Response {
    let stream!: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({ start: (made) => void (stream = made) });
    init?.signal?.addEventListener('abort', () => stream.error(new DOMException('aborted', 'AbortError')));
    this.watches.push({ url, write: (text) => stream.enqueue(new TextEncoder().encode(text)) });
    return new Response(body, { status: 200 });
  }

  get last() {
    return this.watches.at(-1)!;
  }
}

const vm = (name: string, phase = 'stopped') => ({ kind: 'vm', metadata: { name }, spec: { cpus: 1, memory: '1GiB' }, status: { phase } });
const told = (change: string, object: object) => `event: ${change}\nid: 9\ndata: ${JSON.stringify({ change, revision: 9, object })}\n\n`;

let controller: Controller;
let list: PagedList<'vms'>;
const settle = (ms = 100) => vi.advanceTimersByTimeAsync(ms);
const phase = (index: number) => list.at(index)?.status?.phase;

beforeEach(() => {
  controller = new Controller();
  vi.stubGlobal('fetch', controller.fetch);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'requestAnimationFrame', 'Date'] });
  list = new PagedList('vms');
});

afterEach(() => {
  list.close();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('a list', () => {
  it('draws a change of a row at once and asks for nothing', async () => {
    controller.names = ['a', 'b'];
    list.ask({ sort: 'name' });
    await settle();
    expect([list.total, phase(1)]).toEqual([2, 'stopped']);
    const before = controller.asked.length;
    controller.last.write(told('modified', vm('b', 'running')));
    await settle();
    expect(phase(1)).toBe('running');
    await settle(30_000);
    expect(controller.asked.length).toBe(before);
  });

  it('asks the server again when rows come or go, once for many', async () => {
    controller.names = ['a', 'c'];
    list.ask({ sort: 'name' });
    await settle();
    const before = controller.asked.length;
    controller.names = ['a', 'b', 'c'];
    for (const name of ['b', 'x', 'y']) controller.last.write(told('added', vm(name)));
    controller.last.write(told('deleted', vm('x')));
    await settle(1_000);
    expect(controller.asked.length).toBe(before + 1);
    expect([list.total, list.at(1)?.metadata.name]).toEqual([3, 'b']);
  });

  it('asks again where a change may have moved a row', async () => {
    controller.names = ['a', 'b'];
    list.ask({ sort: 'phase' });
    await settle(1_000);
    const before = controller.asked.length;
    controller.last.write(told('modified', vm('a', 'running')));
    await settle(3_000);
    expect(controller.asked.length).toBe(before + 1);
  });

  it('follows of a long one only what is looked at, and asks for the rest every so often', async () => {
    controller.names = Array.from({ length: 5_000 }, (_, index) => `vm-${String(index).padStart(4, '0')}`);
    list.ask({ sort: 'name' });
    list.see(0, 40);
    await settle(1_000);
    expect(controller.last.url.searchParams.get('names')!.split(',')).toHaveLength(100);
    list.see(4_000, 4_040);
    await settle(1_000);
    expect(controller.last.url.searchParams.get('names')).toContain('vm-4000');
    expect(list.at(4_000)?.metadata.name).toBe('vm-4000');
    const before = controller.asked.length;
    controller.last.write(told('modified', vm('vm-4001', 'running')));
    await settle(500);
    expect(phase(4_001)).toBe('running');
    controller.names.pop();
    await settle(10_000);
    expect(controller.asked.length).toBeGreaterThan(before);
    expect(list.total).toBe(4_999);
  });

  it('begins anew with another search', async () => {
    controller.names = ['a'];
    list.ask({ sort: 'name' });
    await settle();
    list.ask({ sort: 'name', q: 'web' });
    await settle();
    expect(controller.last.url.searchParams.get('q')).toBe('web');
    expect(controller.asked.at(-1)!.searchParams.get('q')).toBe('web');
  });
});
