// An alarm as its dialog has it, and what becomes of it. Pure.
import { METRICS } from '$lib/alarms';
import type { Alarm, AlarmMetric, AlarmSeverity } from '$lib/api/types';
import { labelsOf, labelsText, wordsOf } from '../apply/words';
import { metadataOf } from '../apply/metadata';

export interface AlarmDraft {
  name: string;
  description: string;
  severity: AlarmSeverity;
  by: 'metric' | 'event';
  metric: AlarmMetric;
  way: 'above' | 'below';
  threshold: number;
  forSeconds: number;
  reasons: string;
  resolvedBy: string;
  /** Of events; a metric says it itself. */
  kind: string;
  names: string;
  labels: string;
}

export function alarmDraftOf(alarm: Alarm | undefined): AlarmDraft {
  const condition = alarm?.spec.condition;
  const metric = condition && 'metric' in condition ? condition.metric : undefined;
  const event = condition && 'event' in condition ? condition.event : undefined;
  return {
    name: alarm?.metadata.name ?? '',
    description: alarm?.spec.description ?? '',
    severity: alarm?.spec.severity ?? 'warning',
    by: event ? 'event' : 'metric',
    metric: metric?.metric ?? 'vm_cpu_percent',
    way: metric?.below != null ? 'below' : 'above',
    threshold: metric?.above ?? metric?.below ?? 90,
    forSeconds: metric?.for_s ?? 300,
    reasons: event?.reasons.join(', ') ?? '',
    resolvedBy: event?.resolved_by?.join(', ') ?? '',
    kind: alarm?.spec.objects?.kind ?? '',
    names: alarm?.spec.objects?.names?.join(', ') ?? '',
    labels: labelsText(alarm?.spec.objects?.labels),
  };
}

/** What it is not asked for stays as it is. */
export function alarmOf(draft: AlarmDraft, before?: Alarm): Alarm & { kind: 'alarm' } {
  const [names, labels] = [wordsOf(draft.names), labelsOf(draft.labels)];
  const objects = {
    ...(draft.by === 'event' && draft.kind ? { kind: draft.kind } : {}),
    ...(names.length > 0 ? { names } : {}),
    ...(Object.keys(labels).length > 0 ? { labels } : {}),
  };
  return {
    kind: 'alarm',
    metadata: metadataOf(draft.name, before),
    spec: {
      ...(draft.description.trim() ? { description: draft.description.trim() } : {}),
      ...(before?.spec.enabled === false ? { enabled: false } : {}),
      severity: draft.severity,
      condition: draft.by === 'metric' ? { metric: metricOf(draft) } : { event: eventOf(draft) },
      ...(Object.keys(objects).length > 0 ? { objects } : {}),
    },
  };
}

function metricOf({ metric, way, threshold, forSeconds }: AlarmDraft) {
  // What is only so or not so is 1 or 0.
  if (!METRICS[metric].unit) return { metric, above: 0, for_s: forSeconds };
  return { metric, ...(way === 'above' ? { above: threshold } : { below: threshold }), for_s: forSeconds };
}

function eventOf({ reasons, resolvedBy }: AlarmDraft) {
  const ends = wordsOf(resolvedBy);
  return { reasons: wordsOf(reasons), ...(ends.length > 0 ? { resolved_by: ends } : {}) };
}
