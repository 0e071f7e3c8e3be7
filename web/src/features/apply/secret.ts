const HIDDEN = '••••••';

/** The same to be looked at: whoever looks over a shoulder does not see what is secret. */
export function withoutSecret<T>(value: T, secret: string | undefined): T {
  if (!secret) return value;
  return JSON.parse(JSON.stringify(value), (_, part: unknown) => (part === secret ? HIDDEN : part)) as T;
}
