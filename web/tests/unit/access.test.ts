import { describe, expect, it } from 'vitest';
import { addressesCli, captureOf } from '../../src/lib/actions/network';
import { createToken } from '../../src/lib/actions/token';

describe('a token', () => {
  const now = Date.parse('2026-03-01T00:00:00Z');

  it('is made for a time, or for ever', () => {
    const { cli, call } = createToken('ci', 'viewer', 90, now);
    expect(cli).toBe('gantry token create ci --role viewer --expires 90d');
    expect(call.body).toEqual({ name: 'ci', role: 'viewer', expires_at: '2026-05-30T00:00:00.000Z' });
    expect(createToken('ci', 'join', 0, now).call.body).toEqual({ name: 'ci', role: 'join' });
    expect(createToken('', 'admin', 0, now).cli).toBe('gantry token create NAME --role admin');
  });
});

describe('an address set', () => {
  it('is made with its addresses, and changed by what is different', () => {
    expect(addressesCli('office', undefined, ['10.1.0.5', '192.0.2.0/24'])).toBe('gantry address-set create office 10.1.0.5 192.0.2.0/24');
    expect(addressesCli('office', ['10.1.0.5'], ['10.1.0.5'])).toBe('');
    expect(addressesCli('office', ['10.1.0.5'], ['10.1.0.6'])).toBe('gantry address-set add office 10.1.0.6 && gantry address-set remove office 10.1.0.5');
  });
});

describe('a capture', () => {
  it('ends by itself', () => {
    const { cli, call } = captureOf('web-eth0', 30, 2);
    expect(cli).toBe('gantry port capture web-eth0 -w web-eth0.pcap --time 30s --size 2MiB');
    expect(call.path).toBe('/v1/ports/web-eth0/capture?seconds=30&max_bytes=2097152');
  });
});
