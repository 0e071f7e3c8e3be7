// Alarms in words, and what they fire for, most urgent first. Pure.
import type { Alarm, AlarmMetric, AlarmSeverity, Firing, Silence } from './api/types';
import { showSeconds } from './format/time';

export const SEVERITIES: readonly AlarmSeverity[] = ['critical', 'warning', 'info'];

export interface MetricWords {
  kind: 'host' | 'vm' | 'pool' | 'volume' | 'network';
  text: string;
  /** It is a figure with a threshold; otherwise it is so, or it is not. */
  unit?: string;
}

export const METRICS: Readonly<Record<AlarmMetric, MetricWords>> = {
  host_lost: { kind: 'host', text: 'a host does not report' },
  host_unfenced: { kind: 'host', text: 'a host is being shut out, and there is no proof' },
  host_leaseless: { kind: 'host', text: 'a host may not run protected VMs' },
  host_cpu_percent: { kind: 'host', text: 'a host’s processors in use', unit: '%' },
  host_memory_percent: { kind: 'host', text: 'a host’s memory in use', unit: '%' },
  vm_failed: { kind: 'vm', text: 'a VM that should run has failed' },
  vm_not_restarted: { kind: 'vm', text: 'a protected VM is not started again' },
  vm_unhealthy: { kind: 'vm', text: 'a VM does not serve' },
  vm_cpu_percent: { kind: 'vm', text: 'a VM’s processor time', unit: '% of one' },
  pool_used_percent: { kind: 'pool', text: 'a pool’s capacity in use', unit: '%' },
  pool_nearly_full: { kind: 'pool', text: 'a pool is fuller than it may be' },
  pool_unhealthy: { kind: 'pool', text: 'a pool can’t be used' },
  volume_allocated_percent: { kind: 'volume', text: 'what a volume takes of its size', unit: '%' },
  volume_bytes_per_s: { kind: 'volume', text: 'what a volume’s guest reads and writes', unit: 'bytes/s' },
  network_addresses_percent: { kind: 'network', text: 'a network’s addresses given', unit: '%' },
  network_bytes_per_s: { kind: 'network', text: 'what a network carries for its guests', unit: 'bytes/s' },
  network_unlinked: { kind: 'network', text: 'a host has no link for a network' },
};

/** When it fires. */
export function conditionWords({ spec: { condition, objects } }: Alarm): string {
  const among = objectWords(objects);
  if ('event' in condition) {
    const { reasons, resolved_by: ends = [] } = condition.event;
    return `${reasons.join(' or ')} is told of ${objects?.kind ? `a ${objects.kind}` : 'anything'}${among}${ends.length > 0 ? `; over with ${ends.join(' or ')}` : ''}`;
  }
  const { metric, above, below, for_s: seconds = 0 } = condition.metric;
  const { text, unit } = METRICS[metric];
  const beyond = unit ? (above != null ? ` above ${above} ${unit}` : ` below ${below} ${unit}`) : '';
  return `${text}${beyond}${among}${seconds > 0 ? `, for ${showSeconds(seconds)}` : ''}`;
}

function objectWords(objects: Alarm['spec']['objects']): string {
  const labels = Object.entries(objects?.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  const names = objects?.names ?? [];
  const parts = [...(names.length > 0 ? [`only ${names.join(', ')}`] : []), ...(labels.length > 0 ? [`only with ${labels.join(', ')}`] : [])];
  return parts.length > 0 ? ` (${parts.join('; ')})` : '';
}

/** As silences and command lines name it. */
export function nameOf({ kind, name }: { kind: string; name: string }): string {
  return `${kind}/${name}`;
}

/** The silence under which nobody is told of it. */
export function silenceOf(alarm: Alarm, object: { kind: string; name: string }, now: number): Silence | undefined {
  return alarm.status?.silences?.find((silence) => Date.parse(silence.until) > now && (silence.object == null || silence.object === nameOf(object)));
}

export interface Fired {
  alarm: Alarm;
  firing: Firing;
}

const URGENCY = ['firing', 'acknowledged', 'silenced', 'ok'];

/** All that fires, for each object: what nobody takes care of first, then by severity, the newest first. */
export function firedOf(alarms: readonly Alarm[]): Fired[] {
  const rank = ({ alarm, firing }: Fired) => URGENCY.indexOf(firing.state) * 10 + SEVERITIES.indexOf(alarm.spec.severity ?? 'warning');
  return alarms
    .flatMap((alarm) => (alarm.status?.firings ?? []).map((firing) => ({ alarm, firing })))
    .sort((a, b) => rank(a) - rank(b) || Date.parse(b.firing.since) - Date.parse(a.firing.since));
}
