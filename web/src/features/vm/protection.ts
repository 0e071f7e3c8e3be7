// How a VM is protected, as its dialog has it, and what becomes of it. Pure.
import type { Vm, VmSpec } from '$lib/api/types';
import { wordsOf } from '../apply/words';

export type Ha = NonNullable<VmSpec['ha']>;
export type Reaction = NonNullable<Ha['on_guest_failure']>;
export type LossReaction = NonNullable<Ha['on_pool_loss']>;

export interface Protection {
  restart: boolean;
  onGuest: Reaction;
  onApplication: Reaction;
  /** What is done when its host lives and has lost what the VM needs. */
  onPoolLoss: LossReaction;
  onNetworkLoss: LossReaction;
  lossSeconds: string;
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

export const LOSS_REACTIONS: readonly { value: LossReaction; text: string }[] = [
  { value: 'restart_elsewhere', text: 'it is started on another host' },
  { value: 'alarm', text: 'it is only told of' },
];

export function protectionOf({ spec: { ha } }: Vm): Protection {
  return {
    restart: ha?.policy === 'restart',
    onGuest: ha?.on_guest_failure ?? 'restart',
    onApplication: ha?.on_application_failure ?? 'restart',
    onPoolLoss: ha?.on_pool_loss ?? 'restart_elsewhere',
    onNetworkLoss: ha?.on_network_loss ?? 'alarm',
    lossSeconds: String(ha?.loss_s ?? 60),
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
    on_pool_loss: wanted.onPoolLoss,
    on_network_loss: wanted.onNetworkLoss,
    loss_s: Number(wanted.lossSeconds),
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
    ...flag('on-pool-loss', 'onPoolLoss'),
    ...flag('on-network-loss', 'onNetworkLoss'),
    ...flag('ha-loss', 'lossSeconds'),
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
