// A file that is fetched while it grows. Owned here: taking it in without filling the page's memory, telling how far it is,
// ending it early with what there is. A refusal is thrown, where a link would save it as the file.
import { checked } from './api/client';
import { asRefusal, unreachable, type Refusal } from './api/refusal';

/** What the page itself holds; the rest is the browser's to keep, on disk if need be. */
const HELD_BYTES = 8 << 20;

export interface Downloaded {
  file: Blob;
  /** Why it ended before its time, if nobody here ended it. */
  broken?: Refusal;
}

/** Ends with the answer or the signal, whichever is first. The refusal is thrown if nothing came at all. */
export async function downloaded(path: string, type: string, ended: AbortSignal, grown: (bytes: number, total?: number) => void): Promise<Downloaded> {
  const response = await asked(path);
  const total = Number(response.headers.get('Content-Length')) || undefined;
  const reader = response.body!.getReader();
  const end = () => void reader.cancel();
  if (ended.aborted) end();
  ended.addEventListener('abort', end);
  const parts: Blob[] = [];
  let held: Uint8Array<ArrayBuffer>[] = [];
  let [bytes, heldBytes] = [0, 0];
  let broken: Refusal | undefined;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      held.push(value);
      bytes += value.length;
      heldBytes += value.length;
      grown(bytes, total);
      if (heldBytes < HELD_BYTES) continue;
      parts.push(new Blob(held));
      [held, heldBytes] = [[], 0];
    }
  } catch {
    broken = unreachable();
    if (bytes === 0) throw broken;
  } finally {
    ended.removeEventListener('abort', end);
  }
  return { file: new Blob([...parts, ...held], { type }), broken };
}

async function asked(path: string): Promise<Response> {
  try {
    return await checked(await fetch(path, { credentials: 'same-origin', cache: 'no-store' }));
  } catch (thrown) {
    throw thrown instanceof TypeError ? unreachable() : asRefusal(thrown);
  }
}

/** As if it had been downloaded. */
export function saveAs(name: string, file: Blob) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
