import { describe, expect, it } from 'vitest';
import type { Vm } from '../../src/lib/api/types';
import { checkWords, newProbe, probeDraftsOf, probeOf, probesCli } from '../../src/features/vm/probes';

const times = { initial_delay_s: 60, period_s: 10, timeout_s: 1, failure_threshold: 3, success_threshold: 1 };

describe('a VM’s probes', () => {
  it('become their fields, and come back as they were', () => {
    const probes = [
      { kind: 'liveness', check: { http_get: { port: 80, path: '/health', network: 'lan', status: 204, body: 'ok' } }, ...times },
      { kind: 'readiness', check: { tcp_socket: { port: 5432 } }, ...times, success_threshold: 2 },
      { kind: 'readiness', check: { exec: { command: ['/usr/bin/pg_isready', '-q'] } }, ...times, period_s: 5 },
    ];
    const drafts = probeDraftsOf({ spec: { probes } } as unknown as Vm);
    expect(drafts.map(checkWords)).toEqual(['http://lan:80/health', 'tcp://:5432', 'exec:/usr/bin/pg_isready -q']);
    expect(drafts.map(probeOf)).toEqual(probes);
    expect(probeDraftsOf({ spec: {} } as unknown as Vm)).toEqual([]);
  });

  it('that count for a failed VM count one success, whatever was typed before', () => {
    expect(probeOf({ ...newProbe(), kind: 'liveness', successes: 5 }).success_threshold).toBe(1);
  });

  it('are a command line where that can say it, and a file where not', () => {
    const [live, ready] = [{ ...newProbe(), path: '/health', body: 'all ok' }, { ...newProbe(), kind: 'readiness' as const, asks: 'exec' as const, command: '/bin/check -q' }];
    expect(probesCli('web', [], [live])).toBe('gantry vm set web --no-probes');
    expect(probesCli('web', [live, ready], [])).toBe("gantry vm set web --probe http://:80/health --readiness-probe 'exec:/bin/check -q' --probe-body 'all ok'");
    expect(probesCli('web', [{ ...live, periodSeconds: 5 }], [live])).toBe("gantry vm set web --probe http://:80/health --probe-body 'all ok' --probe-period 5");
    expect(probesCli('web', [live, { ...ready, periodSeconds: 5 }], [])).toBe('gantry apply -f web.yaml');
    expect(probesCli('web', [live], [live, ready])).toBe('gantry apply -f web.yaml');
  });
});
