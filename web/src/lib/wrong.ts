// What is wrong, as the server says it.
import type { ObjectRef } from './api/types';

export interface Wrong {
  severity: 'critical' | 'warning';
  object: Pick<ObjectRef, 'kind' | 'name'>;
  what: string;
  remedy?: string | null;
  since?: string | null;
}
