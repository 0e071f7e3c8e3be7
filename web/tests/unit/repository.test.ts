import { describe, expect, it } from 'vitest';
import { withoutSecret } from '../../src/features/apply/secret';
import { adoptedWords, placeWords, repositoryCli, repositoryDraftOf, repositoryOf } from '../../src/features/repository/repository';

describe('a repository', () => {
  const bucket = { ...repositoryDraftOf(undefined), name: 'vault', where: 's3' as const, bucket: 'backups', endpoint: 'https://s3.example/', keyId: 'id', key: 'the key', passphrase: 'correct horse' };

  it('is a directory or a bucket, with its secrets only where they were typed', () => {
    const directory = { ...repositoryDraftOf(undefined), name: 'local', path: ' /srv/backup ' };
    expect(repositoryOf(directory).spec).toEqual({ place: { directory: { path: '/srv/backup' } } });
    expect(repositoryOf(bucket).spec).toEqual({
      place: { s3: { bucket: 'backups', endpoint: 'https://s3.example/', region: 'us-east-1', access_key_id: 'id', secret_access_key: 'the key' } },
      passphrase: 'correct horse',
    });
    const stored = repositoryOf({ ...bucket, key: '', passphrase: '' });
    expect(repositoryOf(repositoryDraftOf(stored), stored).spec).toEqual(stored.spec);
    expect(placeWords(stored)).toBe('https://s3.example/backups');
  });

  it('says what became of what it has', () => {
    expect(adoptedWords({ adopted: 1, known: 0, unreadable: 0 })).toBe('1 backup adopted');
    expect(adoptedWords({ adopted: 0, known: 2, unreadable: 1 })).toBe("0 backups adopted, 2 were known, 1 can't be read");
  });

  it('is typed without its secrets, and shown without them', () => {
    const typed = repositoryCli(bucket);
    expect(typed).toBe('gantry repository create vault --bucket backups --endpoint https://s3.example/ --access-key-id id --secret-access-key-file FILE --passphrase-file FILE');
    const shown = JSON.stringify(withoutSecret(repositoryOf(bucket), [bucket.key, bucket.passphrase]));
    expect(shown).not.toMatch(/the key|correct horse/);
    expect(withoutSecret(repositoryOf(bucket), ['', ''])).toEqual(repositoryOf(bucket));
  });
});
