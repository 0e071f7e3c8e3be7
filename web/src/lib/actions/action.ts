// One thing that can be done to an object: the same as a command line, as a request, and as a button.
import { offers, request } from '../api/client';
import type { Changed, Resource } from '../api/types';
import { notes } from '../ui/notes.svelte';
import type { IconName } from '../ui/icons';

export interface Action {
  id: string;
  label: string;
  icon: IconName;
  /** Shown as dangerous. */
  danger?: boolean;
  /** Why it can't be done now; a button that can't be pressed says so. */
  blocked?: string;
  /** What happens then, for a person who is about to press; asked before it is done. */
  ask?: string;
  cli: string;
  method: 'POST' | 'PUT' | 'DELETE';
  path: string;
  body?: unknown;
  /** The route as the API document has it. */
  route: string;
  /** Said when the request was taken. */
  asked: string;
}

/** Only those that this controller has a route for. */
export function offered(actions: Action[]): Action[] {
  return actions.filter((action) => offers(`${action.method} ${action.route}`));
}

/** Sends it and tells what came of it. Gives the answer, or undefined if it was refused. */
export async function perform(action: Action): Promise<Changed<Resource> | undefined> {
  try {
    const answer = await request<Changed<Resource> | undefined>(action.method, action.path, action.body);
    notes.tell(action.asked, { operation: answer?.operation?.metadata.name, cli: action.cli });
    return answer;
  } catch (thrown) {
    notes.fail(`${action.label} was refused`, thrown);
    return undefined;
  }
}

/** As one would type it with curl. */
export function curlOf(action: Pick<Action, 'method' | 'path' | 'body'>): string {
  const parts = [`curl --cacert ca.pem -H "Authorization: Bearer $(cat token)"`, `-X ${action.method}`];
  if (action.body !== undefined) parts.push(`--json ${quoted(JSON.stringify(action.body))}`);
  return `${parts.join(' ')} ${quoted(location.origin + action.path)}`;
}

/** A word of a POSIX shell. */
export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
