// Pools and volumes, as actions. The server decides; what is blocked here only spares a refusal.
import { call } from '../api/client';
import type { Pool, Volume } from '../api/types';
import type { Action } from './action';

export function poolActions({ metadata: { name }, status }: Pool): Action[] {
  const own = name.startsWith('local-') ? 'it is its host’s own' : undefined;
  const full = (status?.volumes ?? 0) > 0 ? 'it has volumes' : undefined;
  return [
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      blocked: own ?? full,
      ask: 'It is no place for volumes any more; its directory stays. Refused while it has volumes.',
      cli: `gantry pool delete ${name}`,
      call: call('DELETE', '/v1/pools/{name}', { params: { path: { name } } }),
      asked: `Deletion of ${name} is under way`,
    },
  ];
}

export function volumeActions({ metadata: { name }, status }: Volume): Action[] {
  const params = { path: { name } };
  const phase = status?.phase ?? 'creating';
  const busy = status?.operation ? `it is busy: ${status.operation}` : undefined;
  return [
    {
      id: 'detach',
      label: 'Detach',
      icon: 'link',
      blocked: busy ?? (phase === 'attached' ? undefined : 'no VM has it'),
      ask: `Unmount it in the guest first. ${status?.vm ?? 'The VM'} loses the disk; what is on it stays.`,
      cli: `gantry volume detach ${name}`,
      call: call('POST', '/v1/volumes/{name}/detach', { params }),
      asked: `${name} is being detached`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      blocked: busy ?? (status?.vm ? `${status.vm} has it` : undefined),
      ask: 'What is on it is gone for good.',
      cli: `gantry volume delete ${name}`,
      call: call('DELETE', '/v1/volumes/{name}', { params }),
      asked: `Deletion of ${name} is under way`,
    },
  ];
}

export function attachAction(volume: string, vm: string): Action {
  return {
    id: 'attach',
    label: 'Attach',
    icon: 'link',
    blocked: volume && vm ? undefined : volume ? 'no VM is chosen' : 'no volume is chosen',
    cli: `gantry volume attach ${volume || 'VOLUME'} ${vm || 'VM'}`,
    call: call('POST', '/v1/volumes/{name}/attach', { params: { path: { name: volume } }, body: { vm } }),
    asked: `${volume} is being attached to ${vm}`,
  };
}

export function moveAction(volume: string, to: string): Action {
  return {
    id: 'move',
    label: 'Move',
    icon: 'move',
    blocked: to ? undefined : 'no pool is chosen',
    cli: `gantry volume migrate ${volume} --to ${to || 'POOL'}`,
    call: call('POST', '/v1/volumes/{name}/migrate', { params: { path: { name: volume } }, body: { to } }),
    asked: `${volume} is moving to ${to}`,
  };
}

export const EXPORT_FORMATS = [
  { value: 'qcow2', text: 'qcow2 (QEMU)' },
  { value: 'raw', text: 'raw' },
  { value: 'vmdk', text: 'VMDK (VMware)' },
  { value: 'vhd', text: 'VHD (Virtual PC)' },
  { value: 'vhdx', text: 'VHDX (Hyper-V)' },
  { value: 'vdi', text: 'VDI (VirtualBox)' },
] as const;

export type ExportFormat = (typeof EXPORT_FORMATS)[number]['value'];

export function exportOf(volume: string, format: ExportFormat) {
  const file = `${volume}.${format}`;
  return {
    file,
    cli: `gantry volume export ${volume} ./${file}`,
    call: call('GET', '/v1/volumes/{name}/content', { params: { path: { name: volume }, query: { format } } }),
  };
}
