import { describe, expect, it } from 'vitest';
import { pageOf } from '../../src/lib/links';
import { find } from '../../src/shell/pages';

describe('pageOf', () => {
  it('leads to the list that is searched for what has no page of its own', () => {
    expect(pageOf({ kind: 'pool', name: 'fast' })).toBe('/storage?q=fast');
    expect(pageOf({ kind: 'volume', name: 'data' })).toBe('/storage?tab=volumes&q=data');
  });

  it('leads from a snapshot to its VM, if that is known', () => {
    expect(pageOf({ kind: 'snapshot', name: 'web-before', vm: 'web' })).toBe('/vms/web?tab=snapshots');
    expect(pageOf({ kind: 'snapshot', name: 'web-before' })).toBeUndefined();
  });

  it('leads only to pages that there are', () => {
    for (const kind of ['vm', 'host', 'operation', 'image', 'network', 'port', 'router', 'load-balancer', 'floating-ip', 'security-group', 'pool', 'volume', 'cluster', 'policy', 'user', 'alarm', 'receiver', 'repository', 'notice']) {
      const address = pageOf({ kind, name: 'a' });
      expect(find(new URL(address!, 'https://c').pathname), `${kind}: ${address}`).toBeDefined();
    }
  });
});
