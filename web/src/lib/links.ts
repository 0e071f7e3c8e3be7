// The page of an object.
const PLURALS: Record<string, string> = {
  vm: 'vms',
  host: 'hosts',
  image: 'images',
  network: 'networks',
  operation: 'operations',
  snapshot: 'storage',
  volume: 'storage?tab=volumes',
  pool: 'storage',
  policy: 'policies',
  user: 'users',
};

/** Kinds that have a page for each object; others are found in their list. */
const OWN_PAGE = new Set(['vm', 'host', 'operation', 'network']);

export function pageOf(object: { kind: string; name: string }): string | undefined {
  const plural = PLURALS[object.kind];
  if (!plural) return undefined;
  return OWN_PAGE.has(object.kind) ? `/${plural}/${encodeURIComponent(object.name)}` : `/${plural}${plural.includes('?') ? '&' : '?'}q=${encodeURIComponent(object.name)}`;
}
