const HIDDEN = '••••••';

/** The same to be looked at: whoever looks over a shoulder does not see what is secret. */
export function withoutSecret<T>(value: T, secret: string | readonly string[] | undefined): T {
  const secrets = [secret ?? []].flat().filter(Boolean) as unknown[];
  if (secrets.length === 0) return value;
  return JSON.parse(JSON.stringify(value), (_, part: unknown) => (secrets.includes(part) ? HIDDEN : part)) as T;
}
