// Security groups in words: who may talk to whom. Shapes after docs/networking.md. Pure.
import type { Metadata } from './api/types';

export interface Rule {
  direction?: 'ingress' | 'egress';
  protocol?: string;
  ports?: string | number | null;
  cidr?: string | null;
  group?: string | null;
  address_set?: string | null;
}

export interface SecurityGroup {
  kind: 'security-group';
  metadata: Metadata;
  spec: { rules?: Rule[] };
}

export function ruleWords(rule: Rule): string {
  const other = rule.group
    ? `ports of group ${rule.group}`
    : rule.address_set
      ? `addresses of set ${rule.address_set}`
      : (rule.cidr ?? 'anyone');
  const protocol = !rule.protocol || rule.protocol === 'any' ? 'everything' : rule.protocol.toUpperCase();
  const what = rule.ports ? `${protocol} ${rule.ports}` : protocol;
  return rule.direction === 'egress' ? `may send ${what} to ${other}` : `takes ${what} from ${other}`;
}
