// A new backup as its dialog has it, and what becomes of it. Pure.
import type { Backup } from '$lib/api/types';
import { quoted } from '$lib/actions/action';

export interface BackupDraft {
  vm: string;
  /** Beside the VM's. */
  name: string;
  repository: string;
  quiesce: boolean;
  description: string;
}

/** The repository of the VM's newest backup, or else the newest of all: most people have one. */
export function repositoryFor(vm: string, backups: readonly Backup[]): string {
  const newest = [...backups].sort((a, b) => (b.metadata.created_at ?? '').localeCompare(a.metadata.created_at ?? ''));
  return (newest.find(({ spec }) => spec.vm === vm) ?? newest[0])?.spec.repository ?? '';
}

export function manifestOf({ vm, name, repository, quiesce, description }: BackupDraft): Backup & { kind: 'backup' } {
  const about = description.trim();
  return {
    kind: 'backup',
    // Without a VM it is not named, and so not checked yet.
    metadata: { name: vm && name.trim() && repository.trim() ? `${vm}-${name.trim()}` : '' },
    spec: { vm, repository: repository.trim(), quiesce, ...(about ? { description: about } : {}) },
  };
}

export function cliOf({ vm, name, repository, quiesce, description }: BackupDraft): string {
  const about = description.trim() ? ` --description ${quoted(description.trim())}` : '';
  return `gantry backup create ${vm || 'VM'} ${name.trim() || 'NAME'} --to ${quoted(repository.trim() || 'REPOSITORY')}${quiesce ? '' : ' --no-quiesce'}${about}`;
}
