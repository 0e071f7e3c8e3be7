// One thing that can be done to an object: the same as a command line, as a request, and as a button.
import { send, type Call } from '../api/client';
import type { Metadata, Operation } from '../api/types';
import { notes } from '../ui/notes.svelte';
import type { IconName } from '../ui/icons';

/** Of what an action's answer brings only the operation is of interest to all; of its own, or the answer itself. */
export type Answer = object | undefined;

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
  call: Call<Answer>;
  /** Said when the request was taken. */
  asked: string;
}

/** Sends it and tells what came of it. False if it was refused. */
export async function perform(action: Action): Promise<boolean> {
  try {
    const answer = await send(action.call);
    notes.tell(action.asked, { operation: operationOf(answer), cli: action.cli });
    return true;
  } catch (thrown) {
    notes.fail(`${action.label} was refused`, thrown);
    return false;
  }
}

/** The name of the operation that carries it out, if one is needed. */
export function operationOf(answer: Answer): string | undefined {
  const { kind, operation } = (answer ?? {}) as { kind?: string; operation?: Operation | null };
  return kind === 'operation' ? (answer as Operation).metadata.name : operation?.metadata.name;
}

/** As one would type it with curl. */
export function curlOf({ method, path, body }: Call): string {
  const parts = [`curl --cacert ca.pem -H "Authorization: Bearer $(cat token)"`, `-X ${method}`];
  if (body !== undefined) parts.push(`--json ${quoted(JSON.stringify(body))}`);
  return `${parts.join(' ')} ${quoted(location.origin + path)}`;
}

/** A word of a POSIX shell. */
export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The newest state in which the same is wished: what is reported meanwhile is nobody's change. */
export function unlessWishesChanged<T extends { spec: unknown; metadata: Metadata }>(before: T, now: T): T {
  const wishes = ({ spec, metadata }: T) => JSON.stringify([spec, metadata.labels]);
  return wishes(now) === wishes(before) ? now : before;
}
