import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { upload } from '../../src/lib/upload';

/** A controller's side of an upload: keeps what has arrived, and can lose a connection in the middle of a piece. */
class Server {
  content = new Uint8Array(0);
  digest: string | undefined;
  breaks: number[] = [];
  refusal: object | undefined;

  fetch = async () => Response.json({ offset: this.content.length });

  take(range: string, digest: string | undefined, piece: Uint8Array): { status: number; body: object } | undefined {
    const [, first, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(range)!.map(Number);
    if (this.refusal) return { status: 409, body: this.refusal };
    if (first !== this.content.length) return { status: 409, body: { type: 'urn:gantry:problem:wrong-offset', detail: '', class: 'conflict' } };
    const cut = this.breaks.shift();
    this.content = new Uint8Array([...this.content, ...piece.slice(0, cut)]);
    if (cut !== undefined) return undefined;
    this.digest = digest;
    return { status: 202, body: this.content.length === total ? { object: {} } : { offset: this.content.length } };
  }
}

let server: Server;

class Call {
  upload = {} as { onprogress?: (event: { loaded: number }) => void };
  headers: Record<string, string> = {};
  status = 0;
  responseText = '';
  onload?: () => void;
  onerror?: () => void;
  onloadend?: () => void;
  onabort?: () => void;
  open() {}
  abort() {
    this.onabort?.();
  }
  setRequestHeader(name: string, value: string) {
    this.headers[name] = value;
  }
  async send(piece: Blob) {
    const bytes = new Uint8Array(await piece.arrayBuffer());
    this.upload.onprogress?.({ loaded: bytes.length });
    const answer = server.take(this.headers['Content-Range']!, this.headers['Repr-Digest'], bytes);
    if (answer) {
      this.status = answer.status;
      this.responseText = JSON.stringify(answer.body);
      this.onload?.();
    } else this.onerror?.();
    this.onloadend?.();
  }
}

beforeEach(() => {
  server = new Server();
  vi.stubGlobal('fetch', server.fetch);
  vi.stubGlobal('XMLHttpRequest', Call);
  vi.useFakeTimers({ toFake: ['setTimeout'] });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** What the upload reads of a file; jsdom's Blob can't be read. */
function fileOf(bytes: Uint8Array): Blob {
  return {
    size: bytes.length,
    slice: (from: number, to: number) => fileOf(bytes.slice(from, to)),
    arrayBuffer: async () => bytes.slice().buffer,
  } as unknown as Blob;
}

const bytes = Uint8Array.from({ length: 3_000 }, (_, n) => (n * 31) & 255);
const digest = `sha-256=:${createHash('sha256').update(bytes).digest('base64')}:`;

describe('upload', () => {
  it('sends the whole with its SHA-256', async () => {
    await upload('i', fileOf(bytes), new AbortController().signal, () => {});
    expect(Buffer.from(server.content).equals(bytes)).toBe(true);
    expect(server.digest).toBe(digest);
  });

  it('goes on where the server says after a broken connection', async () => {
    server.breaks = [1_200, 0, 7];
    const waited: boolean[] = [];
    let ended = false;
    const done = upload('i', fileOf(bytes), new AbortController().signal, ({ waiting }) => waited.push(waiting)).finally(() => (ended = true));
    while (!ended) await vi.advanceTimersByTimeAsync(2_000);
    await done;
    expect(Buffer.from(server.content).equals(bytes)).toBe(true);
    expect(server.digest).toBe(digest);
    expect(waited.filter(Boolean).length).toBe(3);
  });

  it('gives up what the server refuses', async () => {
    server.refusal = { type: 'urn:gantry:problem:image-has-content', detail: 'it has content', class: 'conflict' };
    await expect(upload('i', fileOf(bytes), new AbortController().signal, () => {})).rejects.toThrow('it has content');
  });
});
