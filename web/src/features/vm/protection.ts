// How a VM is protected, as its dialog has it, and what becomes of it. Pure.
import type { Vm, VmSpec } from '$lib/api/types';

export type Ha = NonNullable<VmSpec['ha']>;

export interface Protection {
  restart: boolean;
  priority: NonNullable<Ha['priority']>;
  restartsPerHour: string;
  hangSeconds: string;
}

export function protectionOf({ spec: { ha } }: Vm): Protection {
  return {
    restart: ha?.policy === 'restart',
    priority: ha?.priority ?? 'medium',
    restartsPerHour: String(ha?.restarts_per_hour ?? 5),
    hangSeconds: String(ha?.hang_s ?? 30),
  };
}

/** What the dialog does not show stays as it is. */
export function haOf(wanted: Protection, before: Ha | undefined): Ha {
  return {
    ...before,
    policy: wanted.restart ? 'restart' : 'none',
    priority: wanted.priority,
    restarts_per_hour: Number(wanted.restartsPerHour),
    hang_s: Number(wanted.hangSeconds),
  };
}

export function protectionCli(name: string, wanted: Protection, before: Protection): string {
  const flag = (word: string, key: keyof Protection) => (wanted[key] === before[key] ? [] : [`--${word} ${wanted[key]}`]);
  const policy = wanted.restart === before.restart ? [] : [`--ha ${wanted.restart ? 'restart' : 'none'}`];
  return [`gantry vm set ${name}`, ...policy, ...flag('priority', 'priority'), ...flag('ha-restarts', 'restartsPerHour'), ...flag('ha-hang', 'hangSeconds')].join(' ');
}

export function protectionWords(vm: Vm): string {
  const { restart, priority, restartsPerHour } = protectionOf(vm);
  return restart ? `it is started again, ${priority} priority, at most ${restartsPerHour} times within an hour` : 'nothing is done';
}
