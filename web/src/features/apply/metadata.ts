import type { Metadata } from '$lib/api/types';

/** Of what is made, or of what was there and is changed: another's change meanwhile is refused, not overwritten. */
export function metadataOf(name: string, before?: { metadata: Metadata }): Metadata {
  return { name: name.trim(), ...(before ? { labels: before.metadata.labels ?? {}, revision: before.metadata.revision } : {}) };
}
