// How a VM is protected, as its dialog has it, and what becomes of it. Pure.
import type { Vm, VmSpec } from '$lib/api/types';
import { wordsOf } from '../apply/words';

export type Ha = NonNullable<VmSpec['ha']>;
export type Reaction = NonNullable<Ha['on_guest_failure']>;

export interface Protection {
  restart: boolean;
  onGuest: Reaction;
  onApplication: Reaction;
  /** Failures in a row; never if empty. */
  rollBackAfter: string;
  priority: NonNullable<Ha['priority']>;
  /** VMs that are waited for. */
  dependsOn: string;
  restartsPerHour: string;
  hangSeconds: string;
}

export const REACTIONS: readonly { value: Reaction; text: string }[] = [
  { value: 'restart', text: 'it is started again' },
  { value: 'reset', text: 'its machine is reset' },
  { value: 'restart_elsewhere', text: 'it is started on another host' },
  { value: 'alarm', text: 'it is only told of' },
];

export function protectionOf({ spec: { ha } }: Vm): Protection {
  return {
    restart: ha?.policy === 'restart',
    onGuest: ha?.on_guest_failure ?? 'restart',
    onApplication: ha?.on_application_failure ?? 'restart',
    rollBackAfter: ha?.roll_back_after ? String(ha.roll_back_after) : '',
    priority: ha?.priority ?? 'medium',
    dependsOn: ha?.depends_on?.join(', ') ?? '',
    restartsPerHour: String(ha?.restarts_per_hour ?? 5),
    hangSeconds: String(ha?.hang_s ?? 30),
  };
}

/** What the dialog does not show stays as it is. */
export function haOf(wanted: Protection, before: Ha | undefined): Ha {
  return {
    ...before,
    policy: wanted.restart ? 'restart' : 'none',
    on_guest_failure: wanted.onGuest,
    on_application_failure: wanted.onApplication,
    roll_back_after: wanted.rollBackAfter ? Number(wanted.rollBackAfter) : null,
    priority: wanted.priority,
    depends_on: wordsOf(wanted.dependsOn),
    restarts_per_hour: Number(wanted.restartsPerHour),
    hang_s: Number(wanted.hangSeconds),
  };
}

export function protectionCli(name: string, wanted: Protection, before: Protection): string {
  const flag = (word: string, key: keyof Protection, value = String(wanted[key])) => (wanted[key] === before[key] ? [] : [`--${word} ${value.replaceAll('_', '-')}`]);
  const dependencies = wordsOf(wanted.dependsOn);
  const same = dependencies.join() === wordsOf(before.dependsOn).join();
  return [
    `gantry vm set ${name}`,
    ...flag('ha', 'restart', wanted.restart ? 'restart' : 'none'),
    ...flag('on-guest-failure', 'onGuest'),
    ...flag('on-app-failure', 'onApplication'),
    ...flag('roll-back-after', 'rollBackAfter', wanted.rollBackAfter || 'never'),
    ...flag('priority', 'priority'),
    ...(same ? [] : dependencies.length > 0 ? dependencies.map((one) => `--depends-on ${one}`) : ['--no-dependencies']),
    ...flag('ha-restarts', 'restartsPerHour'),
    ...flag('ha-hang', 'hangSeconds'),
  ].join(' ');
}

export function protectionWords(vm: Vm): string {
  const { restart, onGuest, onApplication, rollBackAfter, priority, restartsPerHour } = protectionOf(vm);
  if (!restart) return 'nothing is done';
  const words = (reaction: Reaction) => REACTIONS.find(({ value }) => value === reaction)?.text ?? reaction;
  return [
    `it is started again, ${priority} priority, at most ${restartsPerHour} times within an hour`,
    ...(onGuest === 'restart' ? [] : [`when its guest fails ${words(onGuest)}`]),
    ...(onApplication === 'restart' ? [] : [`when its application fails ${words(onApplication)}`]),
    ...(rollBackAfter ? [`after ${rollBackAfter} failures in a row its disk goes back to its last good state`] : []),
  ].join('; ');
}
