// What is in a backup, part by part. Names are the guest's own and may be anything.
import { call, send } from '$lib/api/client';

/** Else browsers guess one, and add an ending to its name. */
const TYPE = { type: 'application/octet-stream' };

/** A directory, or a part of a file from there on. */
export function partOf(backup: string, path: string, offset: number) {
  return call('GET', '/v1/backups/{name}/files', { params: { path: { name: backup }, query: { path, ...(offset > 0 ? { offset } : {}) } } });
}

/** A file as it is, or the names in a directory. */
export async function wholeFile(backup: string, path: string, ended: AbortSignal, grown: (bytes: number, total: number) => void): Promise<Blob | string[]> {
  const parts: Blob[] = [];
  for (let offset = 0; ; ) {
    const content = await send(partOf(backup, path, offset), ended);
    if (content.kind === 'directory') return content.entries;
    const part = Uint8Array.from(atob(content.part), (char) => char.charCodeAt(0));
    parts.push(new Blob([part]));
    offset += part.length;
    grown(offset, content.size_bytes);
    if (offset >= content.size_bytes || part.length === 0) return new Blob(parts, TYPE);
  }
}

/** The path of what a directory lists; directories are listed with a slash at the end. */
export function inside(directory: string, entry: string): string {
  return `${directory === '/' ? '' : directory}/${entry.replace(/\/$/, '')}`;
}

export function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/';
}
