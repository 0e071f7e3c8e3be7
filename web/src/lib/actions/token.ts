// Tokens of the API, as actions.
import { call } from '../api/client';
import type { ApiToken } from '../api/types';
import type { Action } from './action';
import { quoted } from './action';

/** What a token may be for. */
export const TOKEN_ROLES = [
  { value: 'viewer', text: 'Viewer', about: 'reads everything but secrets, changes nothing' },
  { value: 'operator', text: 'Operator', about: 'does everything but users, tokens and the audit log' },
  { value: 'admin', text: 'Admin', about: 'everything' },
  { value: 'join', text: 'Join', about: 'lets one host join, and nothing else' },
] as const;
export type TokenRole = (typeof TOKEN_ROLES)[number]['value'];

/** How long one is good for, in days; 0 for ever. */
export const LIFETIMES = [
  { days: 1, text: 'a day' },
  { days: 30, text: '30 days' },
  { days: 90, text: '90 days' },
  { days: 365, text: 'a year' },
  { days: 0, text: 'ever' },
] as const;

export function createToken(name: string, role: TokenRole, days: number, now: number) {
  const expires = days > 0 ? { expires_at: new Date(now + days * 86_400_000).toISOString() } : {};
  return {
    cli: `gantry token create ${quoted(name || 'NAME')} --role ${role}${days > 0 ? ` --expires ${days}d` : ''}`,
    call: call('POST', '/v1/tokens', { body: { name, role, ...expires } }),
  };
}

export function tokenActions({ metadata: { name } }: ApiToken): Action[] {
  return [
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      ask: 'Whoever uses it is refused from then on, and watches that it opened end.',
      cli: `gantry token delete ${name}`,
      call: call('DELETE', '/v1/tokens/{name}', { params: { path: { name } } }),
      asked: `Token ${name} is worthless`,
    },
  ];
}
