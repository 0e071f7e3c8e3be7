// Sends a file as an image's content, in pieces: what has arrived stays when the connection breaks, and the next piece
// begins where the server says. The whole is checked there against the SHA-256 that is worked out here on the way.
import { sha256 } from '@noble/hashes/sha2';
import { call, headersOf, send } from './api/client';
import { asRefusal, Refusal, unreachable } from './api/refusal';
import type { Changed, Image, Problem } from './api/types';

export interface UploadProgress {
  sent: number;
  /** It waits for the connection to come back. */
  waiting: boolean;
}

const PIECE = 16 * 2 ** 20;
/** Hashed at once; a frame has room for it. */
const SLICE = 2 ** 20;
const RETRY_MS = 2_000;

/** Ends with the answer to the last piece; throws the refusal, or an AbortError after `signal`. */
export async function upload(image: string, file: Blob, signal: AbortSignal, onprogress: (progress: UploadProgress) => void): Promise<Changed<Image>> {
  const params = { path: { name: image } };
  const hash = sha256.create();
  let hashed = 0;
  const hashUpTo = async (end: number) => {
    while (hashed < end) {
      const next = Math.min(hashed + SLICE, end);
      hash.update(new Uint8Array(await file.slice(hashed, next).arrayBuffer()));
      hashed = next;
      signal.throwIfAborted();
    }
  };
  for (;;) {
    try {
      const { offset } = await send(call('GET', '/v1/images/{name}/upload', { params }), signal);
      const end = Math.min(offset + PIECE, file.size);
      await hashUpTo(end);
      const digest = end === file.size ? `sha-256=:${base64(hash.clone().digest())}:` : undefined;
      const range = `bytes ${offset}-${end - 1}/${file.size}`;
      const answer = await sendPiece(`/v1/images/${encodeURIComponent(image)}/content`, file.slice(offset, end), range, digest, signal, (sent) => onprogress({ sent: offset + sent, waiting: false }));
      if (answer.object) return answer as Changed<Image>;
    } catch (thrown) {
      signal.throwIfAborted();
      const refusal = asRefusal(thrown);
      if (!refusal.passes && refusal.code !== 'wrong-offset') throw refusal;
      onprogress({ sent: hashed, waiting: true });
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** `fetch` tells nothing of how far a request's body is. */
function sendPiece(path: string, piece: Blob, range: string, digest: string | undefined, signal: AbortSignal, onsent: (bytes: number) => void) {
  return new Promise<Partial<Changed<Image>>>((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open('PUT', path);
    const headers: Record<string, string> = { ...headersOf('PUT'), 'Content-Type': 'application/octet-stream', 'Content-Range': range };
    if (digest) headers['Repr-Digest'] = digest;
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    const stop = () => call.abort();
    signal.addEventListener('abort', stop);
    call.onloadend = () => signal.removeEventListener('abort', stop);
    call.upload.onprogress = (event) => onsent(event.loaded);
    call.onload = () => {
      const body: unknown = JSON.parse(call.responseText || '{}');
      if (call.status >= 200 && call.status < 300) resolve(body as Partial<Changed<Image>>);
      else reject(new Refusal(body as Problem));
    };
    call.onerror = () => reject(unreachable());
    call.onabort = () => reject(new DOMException('the upload was ended', 'AbortError'));
    call.send(piece);
  });
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

/** An image's name as the file's name suggests it. */
export function nameFrom(file: string): string {
  const stem = file.toLowerCase().replace(/(\.(qcow2|img|raw|vmdk|vhdx?|vdi|gz|xz|zst))+$/, '');
  return stem.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 63);
}
