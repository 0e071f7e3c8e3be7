// Query strings of our lists: what is empty is not sent.
type Value = string | number | boolean | null | undefined;

export function withQuery(path: string, query: Record<string, Value>): string {
  const parts = Object.entries(query)
    .filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`);
  return parts.length === 0 ? path : `${path}?${parts.join('&')}`;
}
