// A VM's probes as their dialog has them, and what becomes of them. Pure.
import type { Probe, Vm } from '$lib/api/types';
import { quoted } from '$lib/actions/action';

export interface ProbeDraft {
  kind: 'liveness' | 'readiness';
  asks: 'http' | 'tcp' | 'exec';
  port: number;
  path: string;
  /** Of the card that is asked; that of the first one if empty. */
  network: string;
  /** Any of 200 to 399 if empty. */
  status: string;
  body: string;
  command: string;
  delaySeconds: number;
  periodSeconds: number;
  timeoutSeconds: number;
  failures: number;
  successes: number;
}

const NEW: ProbeDraft = {
  kind: 'liveness',
  asks: 'http',
  port: 80,
  path: '/',
  network: '',
  status: '',
  body: '',
  command: '',
  delaySeconds: 60,
  periodSeconds: 10,
  timeoutSeconds: 1,
  failures: 3,
  successes: 1,
};

export function newProbe(): ProbeDraft {
  return { ...NEW };
}

export function probeDraftsOf({ spec }: Vm): ProbeDraft[] {
  return (spec.probes ?? []).map(({ kind, check, ...times }) => ({
    ...NEW,
    kind: kind ?? NEW.kind,
    ...askedBy(check),
    delaySeconds: times.initial_delay_s ?? NEW.delaySeconds,
    periodSeconds: times.period_s ?? NEW.periodSeconds,
    timeoutSeconds: times.timeout_s ?? NEW.timeoutSeconds,
    failures: times.failure_threshold ?? NEW.failures,
    successes: times.success_threshold ?? NEW.successes,
  }));
}

function askedBy(check: Probe['check']): Partial<ProbeDraft> {
  if ('http_get' in check) {
    const { port, path, network, status, body } = check.http_get;
    return { asks: 'http', port, path: path ?? '/', network: network ?? '', status: status ? String(status) : '', body: body ?? '' };
  }
  if ('tcp_socket' in check) return { asks: 'tcp', port: check.tcp_socket.port, network: check.tcp_socket.network ?? '' };
  return { asks: 'exec', command: check.exec.command.join(' ') };
}

export function probeOf(draft: ProbeDraft): Probe {
  return {
    kind: draft.kind,
    check: checkOf(draft),
    initial_delay_s: draft.delaySeconds,
    period_s: draft.periodSeconds,
    timeout_s: draft.timeoutSeconds,
    failure_threshold: draft.failures,
    // A VM that fails a liveness probe is started again, so there is nothing to count.
    success_threshold: draft.kind === 'liveness' ? 1 : draft.successes,
  };
}

function checkOf({ asks, port, path, network, status, body, command }: ProbeDraft): Probe['check'] {
  const card = network ? { network } : {};
  if (asks === 'exec') return { exec: { command: command.split(/\s+/).filter(Boolean) } };
  if (asks === 'tcp') return { tcp_socket: { port, ...card } };
  return { http_get: { port, path: path.trim(), ...card, ...(status.trim() ? { status: Number(status) } : {}), ...(body ? { body } : {}) } };
}

/** As it is typed: `http://:80/health`. */
export function checkWords({ asks, port, path, network, command }: ProbeDraft): string {
  if (asks === 'exec') return `exec:${command.trim()}`;
  return asks === 'tcp' ? `tcp://${network}:${port}` : `http://${network}:${port}${path.trim()}`;
}

type Flag = [word: string, of: readonly ProbeDraft[], key: keyof ProbeDraft];

/** The command line has one word for all probes of a VM, and replaces those of a kind that it names; what it can't say is in a file. */
export function probesCli(vm: string, drafts: readonly ProbeDraft[], before: readonly ProbeDraft[]): string {
  if (drafts.length === 0) return `gantry vm set ${vm} --no-probes`;
  const https = drafts.filter(({ asks }) => asks === 'http');
  const flags: Flag[] = [
    ['probe-status', https, 'status'],
    ['probe-body', https, 'body'],
    ['probe-delay', drafts, 'delaySeconds'],
    ['probe-period', drafts, 'periodSeconds'],
    ['probe-timeout', drafts, 'timeoutSeconds'],
    ['probe-failures', drafts, 'failures'],
    ['probe-successes', drafts.filter(({ kind }) => kind === 'readiness'), 'successes'],
  ];
  const differ = flags.some(([, of, key]) => new Set(of.map((draft) => draft[key])).size > 1);
  const kindGone = before.some(({ kind }) => !drafts.some((draft) => draft.kind === kind));
  if (differ || kindGone) return `gantry apply -f ${vm}.yaml`;
  return [
    `gantry vm set ${vm}`,
    ...drafts.map((draft) => `--${draft.kind === 'readiness' ? 'readiness-' : ''}probe ${quoted(checkWords(draft))}`),
    ...flags.flatMap(([word, [first], key]) => (first && first[key] !== NEW[key] ? [`--${word} ${quoted(String(first[key]))}`] : [])),
  ].join(' ');
}
