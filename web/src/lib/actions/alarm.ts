// Alarms and receivers, as actions.
import { nameOf } from '../alarms';
import { call } from '../api/client';
import type { Alarm, Firing, Receiver } from '../api/types';
import { quoted, type Action } from './action';

/** For how long nobody is told. */
export const SILENCES = [
  { text: '30 minutes', typed: '30m', seconds: 1_800 },
  { text: '1 hour', typed: '1h', seconds: 3_600 },
  { text: '8 hours', typed: '8h', seconds: 28_800 },
  { text: 'a day', typed: '1d', seconds: 86_400 },
  { text: '7 days', typed: '7d', seconds: 604_800 },
  { text: '30 days', typed: '30d', seconds: 2_592_000 },
] as const;
export type SilenceTime = (typeof SILENCES)[number];

export function acknowledgeAction(alarm: Alarm, { object, state }: Firing): Action {
  const { name } = alarm.metadata;
  const ends = 'event' in alarm.spec.condition && (alarm.spec.condition.event.resolved_by ?? []).length === 0;
  return {
    id: 'acknowledge',
    label: 'Acknowledge',
    icon: 'check',
    blocked: state === 'acknowledged' ? 'somebody takes care of it already' : undefined,
    ask: ends
      ? 'You have seen it, and it is over with that: nothing else ends it.'
      : 'You take care of it. It goes on being shown until it is over, and nobody else is told of it again.',
    cli: `gantry alarm acknowledge ${name} --object ${nameOf(object)}`,
    call: call('POST', '/v1/alarms/{name}/acknowledge', { params: { path: { name } }, body: { object: nameOf(object) } }),
    asked: `${name} is acknowledged for ${nameOf(object)}`,
  };
}

/** Of one object, or of the whole alarm. */
export function silenceAction(name: string, object: string | undefined, time: SilenceTime, why: string): Action {
  return {
    id: 'silence',
    label: 'Silence',
    icon: 'quiet',
    cli: ['gantry alarm silence', name, ...(object ? [`--object ${object}`] : []), `--for ${time.typed}`, ...(why ? [`--why ${quoted(why)}`] : [])].join(' '),
    call: call('POST', '/v1/alarms/{name}/silence', { params: { path: { name } }, body: { ...(object ? { object } : {}), for_s: time.seconds, why } }),
    asked: `Nobody is told of ${name}${object ? ` for ${object}` : ''} for ${time.text}`,
  };
}

export function endSilenceAction(name: string, object: string | null | undefined): Action {
  return {
    id: 'end-silence',
    label: 'End silence',
    icon: 'alarm',
    cli: `gantry alarm silence ${name}${object ? ` --object ${object}` : ''} --end`,
    call: call('POST', '/v1/alarms/{name}/silence', { params: { path: { name } }, body: { ...(object ? { object } : {}), for_s: 0 } }),
    ask: 'Receivers are told of what still fires, and hear of it again from now on.',
    asked: `${name} is silent no more`,
  };
}

export function alarmActions(alarm: Alarm): Action[] {
  const { name, labels } = alarm.metadata;
  const params = { path: { name } };
  const enabled = alarm.spec.enabled ?? true;
  return [
    {
      id: 'switch',
      label: enabled ? 'Switch off' : 'Switch on',
      icon: enabled ? 'stop' : 'start',
      ask: enabled ? 'Nobody watches for it any more, and what it fires for is over.' : undefined,
      cli: 'gantry apply -f FILE',
      call: call('PUT', '/v1/alarms/{name}', { params, body: { kind: 'alarm', metadata: { name, labels: labels ?? {} }, spec: { ...alarm.spec, enabled: !enabled } } }),
      asked: `${name} is switched ${enabled ? 'off' : 'on'}`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      blocked: alarm.status?.built_in ? 'it comes with Gantry; switch it off instead' : undefined,
      ask: 'Nobody watches for it any more. What it fires for is over.',
      cli: `gantry alarm delete ${name}`,
      call: call('DELETE', '/v1/alarms/{name}', { params }),
      asked: `${name} is deleted`,
    },
  ];
}

export function receiverActions(receiver: Receiver): Action[] {
  const { name, labels } = receiver.metadata;
  const params = { path: { name } };
  const enabled = receiver.spec.enabled ?? true;
  return [
    {
      id: 'switch',
      label: enabled ? 'Switch off' : 'Switch on',
      icon: enabled ? 'stop' : 'start',
      ask: enabled ? 'It is told nothing any more, and what waits for it neither.' : undefined,
      cli: 'gantry apply -f FILE',
      // Its secret is not shown, and stays when it is left out.
      call: call('PUT', '/v1/receivers/{name}', { params, body: { kind: 'receiver', metadata: { name, labels: labels ?? {} }, spec: { ...receiver.spec, enabled: !enabled } } }),
      asked: `${name} is switched ${enabled ? 'off' : 'on'}`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      ask: 'It is told nothing any more, and what waits for it neither.',
      cli: `gantry receiver delete ${name}`,
      call: call('DELETE', '/v1/receivers/{name}', { params }),
      asked: `${name} is deleted`,
    },
  ];
}

export function testCall(name: string) {
  return { cli: `gantry receiver test ${name}`, call: call('POST', '/v1/receivers/{name}/test', { params: { path: { name } } }) };
}
