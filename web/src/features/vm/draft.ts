// A VM as its dialog has it, and what becomes of it: the object, its YAML, the command line. Pure.
import type { Vm, VmSpec } from '$lib/api/types';
import { quoted } from '$lib/actions/action';

export interface Draft {
  name: string;
  cpus: number;
  memory: string;
  image: string;
  disk: string;
  network: string;
  address: string;
  host: string;
  owner: string;
  display: boolean;
  userData: string;
  /** Seconds for which its guest has answered when a good state is kept; the server's default if empty. */
  keepAfterS: string;
  start: boolean;
}

export function emptyDraft(): Draft {
  return {
    name: '',
    cpus: 1,
    memory: '512MiB',
    image: '',
    disk: '',
    network: '',
    address: '',
    host: '',
    owner: '',
    display: false,
    userData: '',
    keepAfterS: '',
    start: true,
  };
}

/** The object as it is sent: only what was chosen, the rest is the server's to fill in. */
export function manifestOf(draft: Draft): { kind: 'vm'; metadata: { name: string }; spec: VmSpec } {
  const spec: VmSpec = { cpus: draft.cpus, memory: draft.memory.trim() };
  if (draft.image) spec.image = draft.image;
  if (draft.disk.trim()) spec.disk = draft.disk.trim();
  if (draft.network) {
    const address = draft.address.trim();
    spec.nics = [address ? { network: draft.network, address } : { network: draft.network }];
  }
  if (draft.display) spec.display = 'vga';
  if (draft.owner.trim()) spec.owner = draft.owner.trim();
  if (draft.userData.trim()) spec.user_data = draft.userData;
  if (draft.keepAfterS) spec.recovery = { after_s: Number(draft.keepAfterS) };
  if (draft.host) spec.host = draft.host;
  if (!draft.start) spec.power = 'stopped';
  return { kind: 'vm', metadata: { name: draft.name.trim() }, spec };
}

/** There are no options for recovery: such a VM is made from a file. */
export function cliOf(draft: Draft): string {
  if (draft.keepAfterS) return 'gantry apply -f FILE';
  const words = ['gantry vm create', quoted(draft.name.trim() || 'NAME'), `--cpus ${draft.cpus}`, `--memory ${quoted(draft.memory.trim())}`];
  if (draft.image) words.push(`--image ${draft.image}`);
  if (draft.disk.trim()) words.push(`--disk ${quoted(draft.disk.trim())}`);
  if (draft.network) words.push(`--network ${draft.network}${draft.address.trim() ? `,ip=${quoted(draft.address.trim())}` : ''}`);
  if (draft.display) words.push('--display vga');
  if (draft.owner.trim()) words.push(`--owner ${quoted(draft.owner.trim())}`);
  if (draft.userData.trim()) words.push('--user-data FILE');
  if (draft.host) words.push(`--host ${draft.host}`);
  if (!draft.start) words.push('--stopped');
  return words.join(' ');
}

/** A copy to make another one like it. */
export function draftLike(vm: Vm): Draft {
  return {
    ...emptyDraft(),
    cpus: vm.spec.cpus,
    memory: vm.spec.memory,
    image: vm.spec.image ?? '',
    disk: vm.spec.disk ?? '',
    network: vm.spec.nics?.[0]?.network ?? '',
    userData: vm.spec.user_data ?? '',
  };
}
