// One stream for all parts of the page that look at the same objects; it ends a moment after the last of them is gone, so
// that going from page to page does not end and begin it.
import { onDestroy } from 'svelte';
import type { Listed, Plural, Resource } from '../api/types';
import { Collection } from './collection.svelte';

const LINGER_MS = 5_000;

interface Entry {
  collection: Collection<Resource>;
  users: number;
  ending?: ReturnType<typeof setTimeout>;
}

const entries = new Map<string, Entry>();

/** All of a kind, or those that the query chooses. For use while a component is initialised; let go with it. */
export function watch<K extends Plural>(plural: K, query: Record<string, string | undefined> = {}): Collection<Listed[K]> {
  const key = `${plural} ${JSON.stringify(query)}`;
  let entry = entries.get(key);
  if (!entry) {
    entry = { collection: new Collection<Resource>(plural, query), users: 0 };
    entries.set(key, entry);
    entry.collection.open();
  }
  const held = entry;
  clearTimeout(held.ending);
  held.users += 1;
  onDestroy(() => {
    held.users -= 1;
    if (held.users > 0) return;
    held.ending = setTimeout(() => drop(key, held), LINGER_MS);
  });
  return held.collection as unknown as Collection<Listed[K]>;
}

/** Another user's objects must not be seen after a change of session. */
export function dropAll() {
  for (const [key, entry] of entries) drop(key, entry);
}

function drop(key: string, entry: Entry) {
  entry.collection.close();
  if (entries.get(key) === entry) entries.delete(key);
}
