import { describe, expect, it } from 'vitest';
import { fenceAction, fenceWords } from '../../src/lib/actions/host';
import { unlessWishesChanged } from '../../src/lib/actions/action';
import type { Host, Vm } from '../../src/lib/api/types';
import { haOf, protectionCli, protectionOf, protectionWords } from '../../src/features/vm/protection';

const vm = (ha?: object) => ({ metadata: { name: 'web' }, spec: { ha } }) as unknown as Vm;

describe('protection', () => {
  it('changes what was chosen, and keeps what the dialog does not show', () => {
    const ha = { policy: 'none', priority: 'medium', restarts_per_hour: 5, hang_s: 30, depends_on: ['db'], watchdog: true } as const;
    const before = protectionOf(vm(ha));
    const wanted = { ...before, restart: true, hangSeconds: '60' };
    const kept = { ...ha, depends_on: ['db'] };
    expect(haOf(wanted, kept)).toEqual({ ...kept, policy: 'restart', hang_s: 60, on_guest_failure: 'restart', on_application_failure: 'restart', on_pool_loss: 'restart_elsewhere', on_network_loss: 'alarm', loss_s: 60, roll_back_after: null });
    expect(protectionCli('web', wanted, before)).toBe('gantry vm set web --ha restart --ha-hang 60');
    expect(protectionCli('web', before, before)).toBe('gantry vm set web');
  });

  it('says what is done about a guest and an application that fail, and when the disk goes back', () => {
    const before = protectionOf(vm({ policy: 'restart', depends_on: ['db'] }));
    const wanted = { ...before, onGuest: 'reset', onApplication: 'restart_elsewhere', rollBackAfter: '3', dependsOn: '' } as const;
    expect(haOf(wanted, undefined)).toMatchObject({ on_guest_failure: 'reset', on_application_failure: 'restart_elsewhere', roll_back_after: 3, depends_on: [] });
    expect(protectionCli('web', wanted, before)).toBe('gantry vm set web --on-guest-failure reset --on-app-failure restart-elsewhere --roll-back-after 3 --no-dependencies');
    expect(protectionCli('web', before, wanted)).toBe('gantry vm set web --on-guest-failure restart --on-app-failure restart --roll-back-after never --depends-on db');
    expect(protectionWords(vm(haOf(wanted, undefined)))).toBe(
      'it is started again, medium priority, at most 5 times within an hour; when its guest fails its machine is reset; when its application fails it is started on another host; after 3 failures in a row its disk goes back to its last good state',
    );
  });

  it('says what is done when its host has lost a pool or its link', () => {
    const before = protectionOf(vm({ policy: 'restart' }));
    const wanted = { ...before, onPoolLoss: 'alarm', onNetworkLoss: 'restart_elsewhere', lossSeconds: '120' } as const;
    expect(haOf(wanted, undefined)).toMatchObject({ on_pool_loss: 'alarm', on_network_loss: 'restart_elsewhere', loss_s: 120 });
    expect(protectionCli('web', wanted, before)).toBe('gantry vm set web --on-pool-loss alarm --on-network-loss restart-elsewhere --ha-loss 120');
  });

  it('is said in words', () => {
    expect(protectionWords(vm())).toBe('nothing is done');
    expect(protectionWords(vm({ policy: 'restart', priority: 'low' }))).toBe('it is started again, low priority, at most 5 times within an hour');
  });
});

describe('fencing', () => {
  it('needs a reason', () => {
    expect(fenceAction('host-1', '').blocked).toBe('say why');
    const action = fenceAction('host-1', "it's hot");
    expect(action.blocked).toBeUndefined();
    expect(action.cli.startsWith('gantry host fence host-1 --why ')).toBe(true);
  });

  it('says by whom, why, and on which proof', () => {
    const host = (fence?: object) => ({ metadata: { name: 'host-1' }, spec: {}, status: { fence } }) as unknown as Host;
    const record = { by: 'token/admin', why: 'smoke' };
    expect(fenceWords(host())).toBeUndefined();
    expect(fenceWords(host({ record }))).toBe('by token/admin, smoke; waiting for proof that nothing protected runs there');
    expect(fenceWords(host({ record, proof: { kind: 'power_off' } }))).toBe('by token/admin, smoke; nothing protected runs there: its power is off');
  });
});

describe('a change', () => {
  it('is made to the newest state, unless somebody else changed what is wished', () => {
    const at = (revision: number, cpus: number) => ({ metadata: { name: 'web', revision }, spec: { cpus } }) as unknown as Vm;
    expect(unlessWishesChanged(at(1, 1), at(2, 1)).metadata.revision).toBe(2);
    expect(unlessWishesChanged(at(1, 1), at(2, 4)).metadata.revision).toBe(1);
  });
});
