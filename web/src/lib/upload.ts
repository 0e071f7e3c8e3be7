// Sends a file as an image's content, with its progress. `fetch` tells nothing of how far a request body is.
import { headersOf } from './api/client';
import { Refusal, unreachable } from './api/refusal';
import type { Changed, Image, Problem } from './api/types';

export interface Sending {
  done: Promise<Changed<Image>>;
  cancel(): void;
}

export function sendContent(image: string, file: Blob, onprogress: (sent: number) => void): Sending {
  const request = new XMLHttpRequest();
  const done = new Promise<Changed<Image>>((resolve, reject) => {
    request.open('PUT', `/v1/images/${encodeURIComponent(image)}/content`);
    for (const [name, value] of Object.entries(headersOf('PUT'))) request.setRequestHeader(name, value);
    request.setRequestHeader('Content-Type', 'application/octet-stream');
    request.upload.onprogress = (event) => onprogress(event.loaded);
    request.onload = () => {
      const body: unknown = JSON.parse(request.responseText || 'null');
      if (request.status >= 200 && request.status < 300) resolve(body as Changed<Image>);
      else reject(new Refusal(body as Problem));
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException('the upload was ended', 'AbortError'));
    request.send(file);
  });
  return { done, cancel: () => request.abort() };
}

/** An image's name as the file's name suggests it. */
export function nameFrom(file: string): string {
  const stem = file.toLowerCase().replace(/(\.(qcow2|img|raw|vmdk|vhdx?|vdi|gz|xz|zst))+$/, '');
  return stem.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 63);
}
