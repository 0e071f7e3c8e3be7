// What can be done to a user. Shapes after docs/objects.md.
import type { Metadata } from '../api/types';
import { offered, type Action } from './action';

export interface UserObject {
  kind: 'user';
  metadata: Metadata;
  spec: { display_name?: string | null; role: string; consoles?: boolean | null; disabled?: boolean };
  status?: { password_set_at?: string | null };
}

export const ROLES = [
  { value: 'user', text: 'User', about: 'sees and uses only the VMs that are his' },
  { value: 'viewer', text: 'Viewer', about: 'sees everything, changes nothing, opens no console' },
  { value: 'operator', text: 'Operator', about: 'does everything but users, tokens and the audit log' },
  { value: 'admin', text: 'Admin', about: 'everything' },
] as const;

export function userActions(user: UserObject): Action[] {
  const { name } = user.metadata;
  const disabled = user.spec.disabled ?? false;
  return offered([
    {
      id: 'password',
      label: 'New password',
      icon: 'power',
      cli: `gantry user passwd ${name}`,
      method: 'POST',
      path: `/v1/users/${name}/password`,
      route: '/v1/users/{name}/password',
      asked: `${name} has a new password`,
    },
    {
      id: 'disable',
      label: disabled ? 'Enable' : 'Disable',
      icon: disabled ? 'check' : 'cordon',
      cli: `gantry get user ${name} -o yaml  # change spec.disabled, then: gantry apply -f FILE`,
      method: 'PUT',
      path: `/v1/users/${name}`,
      route: '/v1/users/{name}',
      body: { kind: 'user', metadata: { name, labels: user.metadata.labels ?? {} }, spec: { ...user.spec, disabled: !disabled } },
      ask: disabled ? `${name} may log in again.` : `${name} can’t log in any more, and sessions that are open end at once.`,
      asked: disabled ? `${name} may log in again` : `${name} is shut out`,
    },
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry user delete ${name}`,
      method: 'DELETE',
      path: `/v1/users/${name}`,
      route: '/v1/users/{name}',
      ask: `${name} can’t log in any more; what he did stays in the audit log. The VMs stay too.`,
      asked: `${name} is deleted`,
    },
  ]);
}
