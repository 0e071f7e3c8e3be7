import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { newest } from '../../src/lib/live/changes';
import { HostBars } from '../../src/lib/live/host-bars.svelte';
import type { HostBar } from '../../src/lib/live/overview.svelte';
import { Paced } from '../../src/lib/live/paced';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'requestAnimationFrame', 'Date', 'performance'] }));
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});
const frames = (count: number) => vi.advanceTimersByTimeAsync(count * 16);

describe('Paced', () => {
  it('draws of each thing only the newest, and none more often than it may', async () => {
    const drawn: string[] = [];
    const paced = new Paced<number>((key, value) => drawn.push(`${key}${value}`), { everyMs: 500, budgetMs: 5 });
    for (let n = 0; n < 1_000; n += 1) paced.push(n % 2 ? 'a' : 'b', n);
    await frames(2);
    expect(drawn).toEqual(['b998', 'a999']);
    for (let n = 0; n < 20; n += 1) {
      paced.push('a', n);
      await frames(1);
    }
    expect(drawn).toHaveLength(2);
    await frames(40);
    expect(drawn.slice(2)).toEqual(['a19']);
  });

  it('leaves to the next frame what does not fit into this one, and lets none wait for ever', async () => {
    const drawn: string[] = [];
    const slow = (key: string) => {
      drawn.push(key);
      vi.setSystemTime(Date.now());
      const until = performance.now() + 3;
      vi.advanceTimersByTime(until - performance.now());
    };
    const paced = new Paced<number>(slow, { everyMs: 0, budgetMs: 5 });
    for (const key of ['a', 'b', 'c', 'd']) paced.push(key, 1);
    await frames(1);
    expect(drawn.slice(0, 2)).toEqual(['a', 'b']);
    paced.push('a', 2);
    await frames(3);
    expect(drawn).toEqual(['a', 'b', 'c', 'd', 'a']);
  });
});

describe('newest', () => {
  const message = (name: string, n: number) => ({ event: 'modified', data: JSON.stringify({ change: 'modified', object: { metadata: { name, n } } }) });

  it('keeps one message of each object, and all that are of none', () => {
    const bookmark = { event: 'bookmark', data: '{}' };
    expect(newest([message('a', 1), bookmark, message('b', 1), message('a', 2)])).toEqual([message('b', 1), message('a', 2), bookmark]);
  });
});

describe('HostBars', () => {
  it('draws a host that changes alone, and both ends of a move together', async () => {
    let write!: (text: string) => void;
    vi.stubGlobal('fetch', async (_: string, { signal }: RequestInit) => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          write = (text) => controller.enqueue(new TextEncoder().encode(text));
          signal?.addEventListener('abort', () => controller.error(new DOMException('aborted', 'AbortError')));
        },
      });
      return new Response(body, { status: 200 });
    });
    const use = { capacity_cores: 1, assigned_cores: 0, used_cores: 0 };
    const memory = { capacity_bytes: 1, assigned_bytes: 0, used_bytes: 0 };
    const power = { most_watts: 1, used_watts: 0 };
    const host = (name: string, vms: HostBar['vms'] = []) => `event: host\ndata: ${JSON.stringify({ name, state: 'ready', cordoned: false, labels: {}, cpu: use, memory, power, vms, vms_total: vms.length })}\n\n`;
    const vm = (more: object = {}) => ({ name: 'vm', phase: 'running' as const, cpus: 1, memory_bytes: 1, watts: 0, ...more });
    const bars = new HostBars();
    await frames(2);
    write(`${host('h1', [vm()])}${host('h2')}${host('h10')}event: ready\ndata: {}\n\n`);
    await frames(2);
    expect(bars.groups[0]!.bars.map(({ name }) => name)).toEqual(['h1', 'h2', 'h10']);
    const before = bars.groups;
    write(host('h1', [vm({ moving_to: 'h2' })]));
    await frames(60);
    const [one, two] = bars.groups[0]!.bars;
    expect(two!.arriving.map(({ name, from }) => [name, from])).toEqual([['vm', 'h1']]);
    write(`${host('h1')}${host('h2', [vm()])}`);
    await frames(60);
    expect([one!.value.vms.length, two!.value.vms.length, two!.arriving.length]).toEqual([0, 1, 0]);
    expect(bars.groups).toBe(before);
    write('event: gone\ndata: {"name":"h10"}\n\n');
    await frames(2);
    expect(bars.groups[0]!.bars).toHaveLength(2);
    bars.close();
  });
});
