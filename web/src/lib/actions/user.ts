// What can be done to a user.
import { call } from '../api/client';
import type { User } from '../api/types';
import type { Action } from './action';

export const ROLES = [
  { value: 'user', text: 'User', about: 'sees and uses only the VMs that are his' },
  { value: 'viewer', text: 'Viewer', about: 'sees everything, changes nothing, opens no console' },
  { value: 'operator', text: 'Operator', about: 'does everything but users, tokens and the audit log' },
  { value: 'admin', text: 'Admin', about: 'everything' },
] as const;

export function userActions(user: User): Action[] {
  const { name } = user.metadata;
  const params = { path: { name } };
  const disabled = user.spec.disabled ?? false;
  return [
    {
      id: 'password',
      label: 'New password',
      icon: 'power',
      cli: `gantry user passwd ${name}`,
      call: call('POST', '/v1/users/{name}/password', { params, body: {} }),
      asked: `${name} has a new password`,
    },
    {
      id: 'disable',
      label: disabled ? 'Enable' : 'Disable',
      icon: disabled ? 'check' : 'cordon',
      cli: `gantry get user ${name} -o yaml  # change spec.disabled, then: gantry apply -f FILE`,
      call: call('PUT', '/v1/users/{name}', { params, body: { kind: 'user', metadata: { name, labels: user.metadata.labels ?? {} }, spec: { ...user.spec, disabled: !disabled } } }),
      ask: disabled ? `${name} may log in again.` : `${name} can’t log in any more, and sessions that are open end at once.`,
      asked: disabled ? `${name} may log in again` : `${name} is shut out`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry user delete ${name}`,
      call: call('DELETE', '/v1/users/{name}', { params }),
      ask: `${name} can’t log in any more; what he did stays in the audit log. The VMs stay too.`,
      asked: `${name} is deleted`,
    },
  ];
}
