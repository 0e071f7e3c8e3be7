// Clusters and their policies. Shapes after docs/objects.md.
import type { Metadata } from '../api/types';
import { offered, type Action } from './action';

export interface Cluster {
  kind: 'cluster';
  metadata: Metadata;
  spec: { cpu_overcommit: number; memory_overcommit: number; tolerate_hosts: number };
  status?: { hosts?: string[]; ready_hosts?: number; cpus?: number; memory?: string; operation?: string | null };
}

export interface Recommendation {
  id: string;
  advice: 'move' | 'sleep' | 'wake';
  vm?: string;
  host?: string;
  from?: string;
  to?: string;
  reason: string;
}

interface Looking {
  mode?: 'off' | 'advise' | 'automatic';
  interval_s?: number;
}

export interface Policy {
  kind: 'policy';
  metadata: Metadata;
  spec: {
    cluster: string;
    balance?: (Looking & { max_moves?: number }) | null;
    power?: (Looking & { spare?: number }) | null;
    schedule?: { vms: string; hosts: string; from: string; until: string; days?: string[] } | null;
  };
  status?: { finding?: string; recommendations?: Recommendation[] };
}

export type Mode = NonNullable<Looking['mode']>;

/** What a policy is, for people. */
export function wordsOf({ spec }: Policy): { rule: 'balance' | 'power' | 'schedule'; mode: Mode; words: string } {
  if (spec.balance) {
    const { mode = 'off', interval_s = 10, max_moves = 2 } = spec.balance;
    return { rule: 'balance', mode, words: `Looks every ${interval_s} s; at most ${max_moves} moves at once from busy hosts to others.` };
  }
  if (spec.power) {
    const { mode = 'off', interval_s = 10, spare = 1 } = spec.power;
    return { rule: 'power', mode, words: `Looks every ${interval_s} s; lets hosts sleep that nobody needs, and keeps ${spare} more awake.` };
  }
  const { vms = '', hosts = '', from = '', until = '', days = [] } = spec.schedule ?? {};
  const when = `${from} to ${until} UTC${days.length > 0 ? `, ${days.join(', ')}` : ', every day'}`;
  return { rule: 'schedule', mode: 'automatic', words: `${when}: VMs with ${vms} run on hosts with ${hosts}.` };
}

export function policyActions(policy: Policy): Action[] {
  const { name, labels } = policy.metadata;
  const { rule, mode } = wordsOf(policy);
  const set = (next: Mode, label: string, icon: Action['icon'], ask?: string): Action => ({
    id: `mode-${next}`,
    label,
    icon,
    ask,
    cli: `gantry policy set ${rule} --cluster ${policy.spec.cluster} --mode ${next}`,
    method: 'PUT',
    path: `/v1/policies/${name}`,
    route: '/v1/policies/{name}',
    body: { kind: 'policy', metadata: { name, labels: labels ?? {} }, spec: { ...policy.spec, [rule]: { ...policy.spec[rule], mode: next } } },
    asked: `${name} is in mode ${next}`,
  });
  const modes =
    rule === 'schedule'
      ? []
      : [
          set('automatic', 'Let it act', 'start', `${name} then does what it recommends by itself.`),
          set('advise', 'Only advise', 'info'),
          set('off', 'Turn off', 'stop'),
        ].filter((action) => action.id !== `mode-${mode}`);
  return offered([
    ...modes,
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry policy delete ${name}`,
      method: 'DELETE',
      path: `/v1/policies/${name}`,
      route: '/v1/policies/{name}',
      ask: `${name} does nothing any more. What it has moved stays where it is.`,
      asked: `${name} is deleted`,
    },
  ]);
}
