// A console is opened by a ticket: single use, good for half a minute, only in the session that asked for it.
import { request } from '../api/client';

interface Ticket {
  ticket: string;
  path: string;
}

export async function consoleAddress(vm: string, kind: 'serial' | 'vnc'): Promise<string> {
  const { path } = await request<Ticket>('POST', `/v1/vms/${vm}/console-ticket`, { kind });
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${path}`;
}
