// Repositories of backups, as actions.
import { call } from '$lib/api/client';
import type { Repository } from '$lib/api/types';
import type { Action } from './action';

export function repositoryActions(repository: Repository): Action[] {
  const { name } = repository.metadata;
  return [
    {
      id: 'delete',
      label: 'Forget',
      icon: 'delete',
      danger: true,
      ask: 'What is kept there stays. It is refused while a backup or a schedule names it.',
      cli: `gantry repository delete ${name}`,
      call: call('DELETE', '/v1/repositories/{name}', { params: { path: { name } } }),
      asked: `${name} is forgotten`,
    },
  ];
}

export function adoptCall(name: string, after?: string) {
  return {
    cli: `gantry repository adopt ${name}`,
    call: call('POST', '/v1/repositories/{name}/adopt', { params: { path: { name }, query: { after } } }),
  };
}

export function checkCall(name: string) {
  return { cli: `gantry repository check ${name}`, call: call('POST', '/v1/repositories/{name}/check', { params: { path: { name } } }) };
}
