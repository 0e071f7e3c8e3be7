import { describe, expect, it } from 'vitest';
import { alarmDraftOf, alarmOf } from '../../src/features/alarm/draft';
import { keepsSecret, receiverDraftOf, receiverOf, targetWords } from '../../src/features/alarm/receiver';
import { withoutSecret } from '../../src/features/apply/secret';
import { labelsOf, labelsText } from '../../src/features/apply/words';
import { acknowledgeAction, alarmActions, endSilenceAction, silenceAction, SILENCES } from '../../src/lib/actions/alarm';
import { conditionWords, firedOf, silenceOf } from '../../src/lib/alarms';
import type { Alarm, Firing, Receiver } from '../../src/lib/api/types';

const vm = (name: string) => ({ kind: 'vm', name, uuid: `uuid-${name}` });
const firing = (name: string, state: Firing['state'], since = '2026-03-01T00:00:00Z'): Firing => ({ object: vm(name), state, since, message: `VM '${name}'` });
const alarm = (name: string, spec: Partial<Alarm['spec']> = {}, status: object = {}) =>
  ({ metadata: { name, revision: 7 }, spec: { condition: { metric: { metric: 'vm_failed', above: 0, for_s: 60 } }, severity: 'warning', ...spec }, status }) as Alarm;

describe('an alarm in words', () => {
  it('says when it fires', () => {
    expect(conditionWords(alarm('a'))).toBe('a VM that should run has failed, for 1 min');
    expect(conditionWords(alarm('a', { condition: { metric: { metric: 'vm_cpu_percent', above: 180, for_s: 300 } }, objects: { names: ['db'], labels: { tier: 'data' } } }))).toBe(
      'a VM’s processor time above 180 % of one (only db; only with tier=data), for 5 min',
    );
    expect(conditionWords(alarm('a', { condition: { metric: { metric: 'host_cpu_percent', below: 5 } } }))).toBe('a host’s processors in use below 5 %');
    expect(conditionWords(alarm('a', { condition: { metric: { metric: 'volume_bytes_per_s', above: 5e7, for_s: 60 } } }))).toBe('what a volume’s guest reads and writes above 50000000 bytes/s, for 1 min');
    expect(conditionWords(alarm('a', { condition: { metric: { metric: 'network_unlinked', above: 0 } } }))).toBe('a host has no link for a network');
    expect(conditionWords(alarm('a', { condition: { event: { reasons: ['VmReset', 'VmRestarted'], resolved_by: ['VmReady'] } }, objects: { kind: 'vm' } }))).toBe(
      'VmReset or VmRestarted is told of a vm; over with VmReady',
    );
  });
});

describe('what fires', () => {
  it('is told by urgency, severity and age', () => {
    const alarms = [
      alarm('low', { severity: 'info' }, { firings: [firing('a', 'firing')] }),
      alarm('high', { severity: 'critical' }, { firings: [firing('b', 'acknowledged'), firing('c', 'firing'), firing('d', 'firing', '2026-03-02T00:00:00Z')] }),
    ];
    expect(firedOf(alarms).map(({ firing: { object } }) => object.name)).toEqual(['d', 'c', 'a', 'b']);
  });

  it('is silent for an object, or for the whole alarm, until the time is over', () => {
    const now = Date.parse('2026-03-01T00:00:00Z');
    const until = '2026-03-01T01:00:00Z';
    const one = alarm('a', {}, { silences: [{ object: 'vm/web', until, by: 'ann' }] });
    expect(silenceOf(one, vm('web'), now)?.by).toBe('ann');
    expect(silenceOf(one, vm('db'), now)).toBeUndefined();
    expect(silenceOf(one, vm('web'), Date.parse(until))).toBeUndefined();
    expect(silenceOf(alarm('a', {}, { silences: [{ until, by: 'ann' }] }), vm('db'), now)?.by).toBe('ann');
  });
});

describe('what is done about alarms', () => {
  it('is a command line and a request', () => {
    const acknowledge = acknowledgeAction(alarm('vm-failed'), firing('web', 'firing'));
    expect(acknowledge.cli).toBe('gantry alarm acknowledge vm-failed --object vm/web');
    expect([acknowledge.call.path, acknowledge.call.body]).toEqual(['/v1/alarms/vm-failed/acknowledge', { object: 'vm/web' }]);
    expect(acknowledge.ask).toContain('until it is over');
    expect(acknowledgeAction(alarm('a', { condition: { event: { reasons: ['VmReset'] } } }), firing('web', 'firing')).ask).toContain('it is over with that');

    const silence = silenceAction('vm-failed', 'vm/web', SILENCES[2], 'rebuilding it');
    expect(silence.cli).toBe("gantry alarm silence vm-failed --object vm/web --for 8h --why 'rebuilding it'");
    expect(silence.call.body).toEqual({ object: 'vm/web', for_s: 28_800, why: 'rebuilding it' });
    expect(endSilenceAction('vm-failed', null).cli).toBe('gantry alarm silence vm-failed --end');
    expect(endSilenceAction('vm-failed', 'vm/web').call.body).toEqual({ object: 'vm/web', for_s: 0 });
  });

  it('leaves those that come with Gantry there', () => {
    const [, remove] = alarmActions(alarm('host-lost', {}, { built_in: true }));
    expect(remove!.blocked).toContain('switch it off');
    expect(alarmActions(alarm('own'))[1]!.blocked).toBeUndefined();
    expect(alarmActions(alarm('own'))[0]!.call.body).toMatchObject({ spec: { enabled: false } });
    expect(alarmActions(alarm('own', { enabled: false }))[0]!.call.body).toMatchObject({ spec: { enabled: true } });
  });
});

describe('an alarm’s dialog', () => {
  it('makes what is shown, and leaves what nobody chose to the controller', () => {
    const draft = { ...alarmDraftOf(undefined), name: 'busy ' };
    expect(alarmOf(draft)).toEqual({ kind: 'alarm', metadata: { name: 'busy' }, spec: { severity: 'warning', condition: { metric: { metric: 'vm_cpu_percent', above: 90, for_s: 300 } } } });
    const event = { ...draft, by: 'event' as const, reasons: 'VmReset, VmRestarted', kind: 'vm', labels: 'tier=data', names: 'a b' };
    expect(alarmOf(event).spec).toEqual({
      severity: 'warning',
      condition: { event: { reasons: ['VmReset', 'VmRestarted'] } },
      objects: { kind: 'vm', names: ['a', 'b'], labels: { tier: 'data' } },
    });
  });

  it('has nothing to ask about what is so or not', () => {
    const draft = { ...alarmDraftOf(undefined), metric: 'host_lost' as const, way: 'below' as const, forSeconds: 0 };
    expect(alarmOf(draft).spec.condition).toEqual({ metric: { metric: 'host_lost', above: 0, for_s: 0 } });
  });

  it('changes what it is about, and keeps that it is switched off', () => {
    const before = alarm('a', { enabled: false, condition: { metric: { metric: 'pool_used_percent', below: 10, for_s: 0 } } });
    const changed = alarmOf(alarmDraftOf(before), before);
    expect(changed.spec).toEqual({ enabled: false, severity: 'warning', condition: before.spec.condition });
    expect(changed.metadata).toEqual({ name: 'a', labels: {}, revision: 7 });
  });
});

describe('a receiver', () => {
  const hook = (has_secret: boolean) =>
    ({ metadata: { name: 'ops', revision: 3 }, spec: { via: { webhook: { url: 'https://chat.example.org/1' } }, severity: 'warning' }, status: { has_secret } }) as Receiver;

  it('is a webhook, or mailboxes', () => {
    const draft = { ...receiverDraftOf(undefined), name: 'ops', url: 'https://chat.example.org/1', secret: 'Bearer 1' };
    expect(receiverOf(draft).spec).toEqual({ via: { webhook: { url: 'https://chat.example.org/1', authorization: 'Bearer 1' } }, severity: 'warning' });
    const mail = { ...draft, via: 'email' as const, server: 'mail', from: 'Gantry <g@example.org>', to: 'a@example.org, Ann Lee <b@example.org>', secret: '', alarms: ['host-lost'] };
    expect(receiverOf(mail).spec).toEqual({
      via: { email: { server: 'mail', encryption: 'starttls', from: 'Gantry <g@example.org>', to: ['a@example.org', 'Ann Lee <b@example.org>'] } },
      severity: 'warning',
      alarms: ['host-lost'],
    });
    expect(targetWords(receiverOf(mail))).toBe('a@example.org, Ann Lee <b@example.org>');
  });

  it('keeps its secret only where it was', () => {
    const draft = receiverDraftOf(hook(true));
    expect(keepsSecret(draft, hook(true))).toBe(true);
    expect(keepsSecret({ ...draft, severity: 'critical' }, hook(true))).toBe(true);
    expect(keepsSecret({ ...draft, url: 'https://elsewhere.example.org' }, hook(true))).toBe(false);
    expect(keepsSecret(draft, hook(false))).toBe(false);
  });

  it('shows no secret', () => {
    const sent = { spec: { via: { email: { username: 'gantry', password: 'p4ss' } } } };
    expect(withoutSecret(sent, 'p4ss')).toEqual({ spec: { via: { email: { username: 'gantry', password: '••••••' } } } });
    expect(withoutSecret(sent, undefined)).toBe(sent);
  });
});

describe('labels', () => {
  it('are read and written as they are typed', () => {
    expect(labelsOf('tier=data, app=a=b alone')).toEqual({ tier: 'data', app: 'a=b', alone: '' });
    expect(labelsText({ tier: 'data', app: 'x' })).toBe('tier=data, app=x');
    expect(labelsText(undefined)).toBe('');
  });
});
