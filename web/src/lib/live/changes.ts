// What a watch tells, as it comes and as it is taken in: of many changes to one object between two frames only the newest
// is decoded. Pure.
import type { Resource } from '../api/types';
import type { SseMessage } from './sse';

export interface WatchEvent<T> {
  change: 'added' | 'modified' | 'deleted' | 'bookmark';
  revision: number;
  object?: T | null;
}

/** The first name in an event is its object's: `kind` and `metadata` come first, and the name first in that. */
const NAME = /"name":"([^"]+)"/;

export function decode<T extends Resource>(message: SseMessage): WatchEvent<T> {
  return JSON.parse(message.data) as WatchEvent<T>;
}

/** The name of the object that a message is about. */
export function nameIn(message: SseMessage): string | undefined {
  return message.event === 'bookmark' || message.event === 'ready' ? undefined : NAME.exec(message.data)?.[1];
}

/** Without what a later message of the batch says anew, in order. */
export function newest(batch: readonly SseMessage[]): SseMessage[] {
  const last = new Map<string, SseMessage>();
  const rest: SseMessage[] = [];
  for (const message of batch) {
    const name = nameIn(message);
    if (name === undefined) rest.push(message);
    else {
      // Set anew, so that it stands where the newest stood.
      last.delete(name);
      last.set(name, message);
    }
  }
  return [...last.values(), ...rest];
}
