// A console is opened by a ticket: single use, good for half a minute, only in the session that asked for it.
import { call, send } from '../api/client';

export async function consoleAddress(name: string, kind: 'serial' | 'vnc'): Promise<string> {
  const { path } = await send(call('POST', '/v1/vms/{name}/console-ticket', { params: { path: { name } }, body: { kind } }));
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${path}`;
}
