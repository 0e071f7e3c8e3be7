import { afterEach, describe, expect, it, vi } from 'vitest';
import { downloaded } from '../../src/lib/download';
import { Refusal } from '../../src/lib/api/refusal';

/** An answer that goes on until it is told otherwise. */
function stream() {
  let control!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>({ start: (given) => void (control = given) });
  vi.stubGlobal('fetch', async () => new Response(body, { status: 200 }));
  return { control, bytes: (count: number) => control.enqueue(new Uint8Array(count)) };
}

afterEach(() => vi.unstubAllGlobals());

describe('a download', () => {
  it('that is refused says why', async () => {
    const problem = { type: 'urn:gantry:problem:no-vm', title: 'no VM', status: 409, class: 'conflict', detail: "port 'p' is no VM's", remedy: 'name it in a VM' };
    vi.stubGlobal('fetch', async () => new Response(JSON.stringify(problem), { status: 409, headers: { 'Content-Type': 'application/problem+json' } }));
    const refusal = await downloaded('/v1/ports/p/capture', 'application/vnd.tcpdump.pcap', new AbortController().signal, () => {}).catch((thrown: unknown) => thrown);
    expect(refusal).toBeInstanceOf(Refusal);
    expect((refusal as Refusal).problem.remedy).toBe('name it in a VM');
  });

  it('is all that came, and tells how much it is', async () => {
    const { control, bytes } = stream();
    const grown: number[] = [];
    const coming = downloaded('/v1/ports/p/capture', 'application/vnd.tcpdump.pcap', new AbortController().signal, (count) => grown.push(count));
    bytes(24);
    bytes(9 << 20);
    bytes(6);
    control.close();
    const { file, broken } = await coming;
    expect([file.size, broken]).toEqual([(9 << 20) + 30, undefined]);
    expect(grown).toEqual([24, (9 << 20) + 24, (9 << 20) + 30]);
  });

  it('that somebody ends, or that breaks, is what there was until then', async () => {
    const first = stream();
    const ended = new AbortController();
    const coming = downloaded('/v1/ports/p/capture', 'application/vnd.tcpdump.pcap', ended.signal, () => ended.abort());
    first.bytes(24);
    const { file, broken } = await coming;
    expect([file.size, broken]).toEqual([24, undefined]);

    const second = stream();
    const breaking = downloaded('/v1/ports/p/capture', 'application/vnd.tcpdump.pcap', new AbortController().signal, () => second.control.error(new TypeError('gone')));
    second.bytes(24);
    const after = await breaking;
    expect([after.file.size, after.broken?.code]).toEqual([24, 'controller-unreachable']);
  });
});
