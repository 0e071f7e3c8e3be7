// What clusters do by themselves, as actions.
import { call } from '../api/client';
import type { Policy, Recommendation } from '../api/types';
import type { Action } from './action';

type Rule = 'balance' | 'storage' | 'power' | 'schedule';
export type Mode = 'off' | 'advise' | 'automatic';

/** What a policy is, for people. */
export function wordsOf({ spec }: Policy): { rule: Rule; mode: Mode; words: string } {
  if (spec.balance) {
    const { mode = 'off', interval_s = 10, max_moves = 2 } = spec.balance;
    return { rule: 'balance', mode, words: `Looks every ${interval_s} s; at most ${max_moves} moves at once from busy hosts to others.` };
  }
  if (spec.storage) {
    const { mode = 'off', interval_s = 30, limit_percent = 80 } = spec.storage;
    return { rule: 'storage', mode, words: `Looks every ${interval_s} s; moves volumes out of pools that are more than ${limit_percent} % full or busy.` };
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
  const params = { path: { name } };
  const { rule, mode } = wordsOf(policy);
  const set = (next: Mode, label: string, icon: Action['icon'], ask?: string): Action => ({
    id: `mode-${next}`,
    label,
    icon,
    ask,
    cli: `gantry policy set ${rule} --cluster ${policy.spec.cluster} --mode ${next}`,
    call: call('PUT', '/v1/policies/{name}', {
      params,
      body: { kind: 'policy', metadata: { name, labels: labels ?? {} }, spec: { ...policy.spec, [rule]: { ...policy.spec[rule], mode: next } } },
    }),
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
  return [
    ...modes,
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry policy delete ${name}`,
      call: call('DELETE', '/v1/policies/{name}', { params }),
      ask: `${name} does nothing any more. What it has moved stays where it is.`,
      asked: `${name} is deleted`,
    },
  ];
}

export function updateAction(cluster: string, method: 'await_restart' | 'reboot'): Action {
  return {
    id: 'update',
    label: 'Update',
    icon: 'reboot',
    cli: `gantry cluster update ${cluster}${method === 'reboot' ? ' --reboot' : ''}`,
    call: call('POST', '/v1/clusters/{name}/update', { params: { path: { name: cluster } }, body: { method } }),
    asked: `Cluster ${cluster} is being updated`,
  };
}

/** In words: what it would do. */
export function adviceWords(advice: Recommendation): string {
  if (advice.advice === 'move') return `Move ${advice.vm} from ${advice.from} to ${advice.to}`;
  if (advice.advice === 'move_volume') return `Move volume ${advice.volume} from ${advice.from} to ${advice.to}`;
  return advice.advice === 'sleep' ? `Put ${advice.host} to sleep` : `Wake ${advice.host}`;
}

export function applyAction(policy: Policy, advice: Recommendation): Action {
  const name = policy.metadata.name;
  return {
    id: 'apply',
    label: 'Do it',
    icon: 'check',
    ask: `${adviceWords(advice)}. ${advice.reason}`,
    cli: `gantry policy apply ${name} ${advice.id}`,
    call: call('POST', '/v1/policies/{name}/recommendations/{id}/apply', { params: { path: { name, id: advice.id } } }),
    asked: `${adviceWords(advice)}: under way`,
  };
}
