// A repository of backups as its dialog has it, and what becomes of it. Pure.
import { quoted } from '$lib/actions/action';
import type { Repository } from '$lib/api/types';
import { metadataOf } from '../apply/metadata';

export interface RepositoryDraft {
  name: string;
  where: 'directory' | 's3';
  path: string;
  bucket: string;
  prefix: string;
  /** Amazon's if empty. */
  endpoint: string;
  region: string;
  keyId: string;
  /** What is stored stays if it is empty. */
  key: string;
  /** Not encrypted if empty; what is stored stays. */
  passphrase: string;
}

export function repositoryDraftOf(repository: Repository | undefined): RepositoryDraft {
  const place = repository?.spec.place;
  const s3 = place && 's3' in place ? place.s3 : undefined;
  return {
    name: repository?.metadata.name ?? '',
    where: s3 ? 's3' : 'directory',
    path: place && 'directory' in place ? place.directory.path : '',
    bucket: s3?.bucket ?? '',
    prefix: s3?.prefix ?? '',
    endpoint: s3?.endpoint ?? '',
    region: s3?.region ?? 'us-east-1',
    keyId: s3?.access_key_id ?? '',
    key: '',
    passphrase: '',
  };
}

export function repositoryOf(draft: RepositoryDraft, before?: Repository): Repository & { kind: 'repository' } {
  const { passphrase } = draft;
  const place = draft.where === 's3' ? { s3: bucketOf(draft) } : { directory: { path: draft.path.trim() } };
  return {
    kind: 'repository',
    metadata: metadataOf(draft.name, before),
    spec: { place, ...(passphrase ? { passphrase } : {}) },
  };
}

function bucketOf({ bucket, prefix, endpoint, region, keyId, key }: RepositoryDraft) {
  return {
    bucket: bucket.trim(),
    ...(prefix.trim() ? { prefix: prefix.trim() } : {}),
    ...(endpoint.trim() ? { endpoint: endpoint.trim() } : {}),
    region: region.trim() || 'us-east-1',
    access_key_id: keyId.trim(),
    ...(key ? { secret_access_key: key } : {}),
  };
}

/** A repository that is there is changed by a file; its secrets are not typed on a command line. */
export function repositoryCli(draft: RepositoryDraft, before?: Repository): string {
  if (before) return 'gantry apply -f FILE';
  const { name, where, path, bucket, prefix, endpoint, region, keyId, passphrase } = draft;
  const given = (option: string, value: string) => (value.trim() ? [`--${option}`, quoted(value.trim())] : []);
  const place =
    where === 's3'
      ? [
          ...['--bucket', quoted(bucket.trim() || 'BUCKET')],
          ...given('prefix', prefix),
          ...given('endpoint', endpoint),
          ...(region.trim() === 'us-east-1' ? [] : given('region', region)),
          ...['--access-key-id', quoted(keyId.trim() || 'ID'), '--secret-access-key-file', 'FILE'],
        ]
      : ['--path', quoted(path.trim() || 'DIRECTORY')];
  return ['gantry repository create', name.trim() || 'NAME', ...place, ...(passphrase ? ['--passphrase-file', 'FILE'] : [])].join(' ');
}

/** Where it is, for people. */
export function placeWords({ spec: { place } }: Repository): string {
  if ('directory' in place) return place.directory.path;
  const { endpoint, bucket, prefix } = place.s3;
  return [endpoint?.replace(/\/+$/, '') ?? 's3:/', bucket, ...(prefix ? [prefix] : [])].join('/');
}

/** What became of the backups that a repository has. */
export function adoptedWords({ adopted, known, unreadable }: { adopted: number; known: number; unreadable: number }): string {
  return [
    `${adopted} ${adopted === 1 ? 'backup' : 'backups'} adopted`,
    ...(known > 0 ? [`${known} ${known === 1 ? 'was' : 'were'} known`] : []),
    ...(unreadable > 0 ? [`${unreadable} can't be read`] : []),
  ].join(', ');
}
