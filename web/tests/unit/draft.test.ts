import { describe, expect, it } from 'vitest';
import { wrongIn } from '../../src/features/apply/wrong';
import { cliOf, emptyDraft, manifestOf } from '../../src/features/vm/draft';

describe('a VM’s draft', () => {
  it('sends only what was chosen', () => {
    expect(manifestOf({ ...emptyDraft(), name: ' web ' })).toEqual({ kind: 'vm', metadata: { name: 'web' }, spec: { cpus: 1, memory: '512MiB' } });
  });

  it('says the same as object and as command line', () => {
    const draft = { ...emptyDraft(), name: 'web', image: 'debian', network: 'default', address: '10.0.0.5', disk: '10GiB', host: 'host-1', start: false };
    expect(manifestOf(draft).spec).toEqual({
      cpus: 1,
      memory: '512MiB',
      image: 'debian',
      disk: '10GiB',
      nics: [{ network: 'default', address: '10.0.0.5' }],
      host: 'host-1',
      power: 'stopped',
    });
    expect(cliOf(draft)).toBe(
      'gantry vm create web --cpus 1 --memory 512MiB --image debian --disk 10GiB --network default,ip=10.0.0.5 --host host-1 --stopped',
    );
  });

  it('shows an objection at its field', () => {
    const problem = { fields: [{ field: 'spec.memory', message: 'is too little' }] };
    expect(wrongIn(problem, 'spec.memory')).toBe('is too little');
    expect(wrongIn(problem, 'spec.cpus')).toBeUndefined();
    expect(wrongIn(undefined, 'spec.cpus')).toBeUndefined();
  });
});
