import { afterEach, describe, expect, it, vi } from 'vitest';
import { backupActions, lostWords, nameOfMoment, ownName, restoreAction, restoreVolumeAction, sizeOf } from '../../src/lib/actions/backup';
import type { Backup } from '../../src/lib/api/types';
import { cliOf, manifestOf, repositoryFor } from '../../src/features/backup/backup';
import { inside, parentOf, wholeFile } from '../../src/features/backup/files';

const backup = (status: object = { phase: 'ready' }, vm = 'web', repository = '/srv/backup', created_at = '2027-01-31T02:15:00Z') =>
  ({ metadata: { name: `${vm}-20270131-021500`, created_at }, spec: { vm, repository }, status }) as unknown as Backup;

describe('a backup', () => {
  it('is named after its moment, as the command line does', () => {
    expect(nameOfMoment(new Date('2027-01-31T02:15:00.999Z'))).toBe('20270131-021500');
    expect(ownName(backup())).toBe('20270131-021500');
  });

  it('is made as it is typed, and not checked before it says of what and where', () => {
    const draft = { vm: 'web', name: 'monday', repository: '/srv/backup', quiesce: true, description: '' };
    expect(manifestOf(draft)).toEqual({ kind: 'backup', metadata: { name: 'web-monday' }, spec: { vm: 'web', repository: '/srv/backup', quiesce: true } });
    expect(cliOf(draft)).toBe('gantry backup create web monday --to /srv/backup');
    expect(cliOf({ ...draft, quiesce: false, description: 'before the move' })).toBe("gantry backup create web monday --to /srv/backup --no-quiesce --description 'before the move'");
    expect(manifestOf({ ...draft, vm: '' }).metadata.name).toBe('');
    expect(manifestOf({ ...draft, repository: ' ' }).metadata.name).toBe('');
  });

  it('goes where the VM’s last one went, else where the last one of all did', () => {
    const old = backup(undefined, 'web', '/srv/old', '2027-01-01T00:00:00Z');
    const other = backup(undefined, 'db', '/srv/new', '2027-01-02T00:00:00Z');
    expect([repositoryFor('web', [other, old]), repositoryFor('mail', [old, other]), repositoryFor('web', [])]).toEqual(['/srv/old', '/srv/new', '']);
  });

  it('that is worked on or not whole is not read', () => {
    const blocked = (status: object) => backupActions(backup(status)).map((action) => action.blocked);
    expect(blocked({ phase: 'ready' })).toEqual([undefined, undefined]);
    expect(blocked({ phase: 'creating', operation: 'op-1' })).toEqual(['it is busy: op-1', 'it is busy: op-1']);
    expect(blocked({ phase: 'deleting' })).toEqual(['it is deleting', undefined]);
    expect(restoreAction(backup({ phase: 'deleting' }), { name: '', host: '', start: true }).blocked).toBe('it is deleting');
  });

  it('is restored under the name, on the host, and started as chosen', () => {
    const plain = restoreAction(backup(), { name: '', host: '', start: true });
    expect([plain.cli, plain.call.body]).toEqual(['gantry backup restore web 20270131-021500', { start: true }]);
    const other = restoreAction(backup(), { name: 'web2', host: 'host-2', start: false });
    expect(other.cli).toBe('gantry backup restore web 20270131-021500 --as web2 --host host-2 --no-start');
    expect([other.call.path, other.call.body]).toEqual(['/v1/backups/web-20270131-021500/restore', { name: 'web2', host: 'host-2', start: false }]);
  });

  it('gives a disk of it back as a volume', () => {
    const of = backup({ phase: 'ready', disks: [{ name: 'disk', size: '1GiB' }, { name: 'data', size: '512MiB' }] });
    const action = restoreVolumeAction(of, { disk: 'data', name: 'data2', pool: 'fast' });
    expect([action.blocked, action.cli]).toEqual([undefined, 'gantry backup restore-volume web data 20270131-021500 --as data2 --pool fast']);
    expect(action.call.body).toEqual({ kind: 'volume', metadata: { name: 'data2' }, spec: { pool: 'fast', size: '512MiB', backup: { name: 'web-20270131-021500', disk: 'data' } } });
    expect(restoreVolumeAction(of, { disk: 'data', name: 'data', pool: '' })).toMatchObject({ blocked: 'no pool is chosen', cli: 'gantry backup restore-volume web data 20270131-021500 --pool POOL' });
  });

  it('says how large it is, and what of it is lost', () => {
    expect([sizeOf(backup()), sizeOf(backup({ disks: [{ name: 'disk', size: '1GiB' }, { name: 'data', size: '512MiB' }] }))]).toEqual(['–', '1.5 GiB']);
    expect(lostWords(backup({ lost: [{ disk: 'data', offset_bytes: 1048576, length_bytes: 262144, why: 'the chunk is missing' }] }))).toEqual([
      '256 KiB of data from byte 1,048,576 on: the chunk is missing',
    ]);
  });
});

describe('a file in a backup', () => {
  afterEach(() => vi.unstubAllGlobals());

  it('is found below the directory that lists it', () => {
    expect([inside('/', 'etc/'), inside('/etc', 'hostname'), parentOf('/etc/hostname'), parentOf('/etc')]).toEqual(['/etc', '/etc/hostname', '/etc', '/']);
  });

  it('is read part by part until it is whole, and a directory is its names', async () => {
    const asked: string[] = [];
    const content = 'a file of eighteen';
    vi.stubGlobal('fetch', async (request: Request) => {
      const query = new URL(request.url).searchParams;
      asked.push(`${query.get('path')} ${query.get('offset')}`);
      const offset = Number(query.get('offset') ?? 0);
      const body = query.get('path') === '/' ? { kind: 'directory', entries: ['etc/'] } : { kind: 'file', size_bytes: content.length, part: btoa(content.slice(offset, offset + 10)) };
      return new Response(JSON.stringify(body), { headers: { 'Content-Type': 'application/json' } });
    });
    const grown: [number, number][] = [];
    const signal = new AbortController().signal;
    const file = await wholeFile('web-1', '/etc/issue', signal, (...now) => grown.push(now));
    expect((file as Blob).size).toBe(content.length);
    expect(grown).toEqual([[10, 18], [18, 18]]);
    expect(await wholeFile('web-1', '/', signal, () => {})).toEqual(['etc/']);
    expect(asked).toEqual(['/etc/issue null', '/etc/issue 10', '/ null']);
  });
});
