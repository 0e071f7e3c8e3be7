// Security groups in words: who may talk to whom. Pure.
import { quoted } from './actions/action';
import type { GroupRule, SecurityGroup } from './api/types';

export function ruleWords(rule: GroupRule): string {
  const other = rule.group ? `ports of group ${rule.group}` : rule.address_set ? `addresses of set ${rule.address_set}` : (rule.cidr ?? 'anyone');
  return rule.direction === 'egress' ? `may send ${trafficWords(rule)} to ${other}` : `takes ${trafficWords(rule)} from ${other}`;
}

function trafficWords({ protocol, ports }: GroupRule): string {
  const word = !protocol || protocol === 'any' ? 'everything' : protocol.toUpperCase();
  return ports ? `${word} ${ports}` : word;
}

/** The commands that make a group's rules what they are to be. */
export function cliOfRules(name: string, before: readonly GroupRule[] | undefined, after: readonly GroupRule[]): string {
  const same = (one: GroupRule) => ruleOptions(one);
  const had = new Set((before ?? []).map(same));
  const has = new Set(after.map(same));
  const lines = [
    ...(before ? [] : [`gantry security-group create ${quoted(name)}`]),
    ...[...has].filter((one) => !had.has(one)).map((one) => `gantry security-group allow ${quoted(name)}${one}`),
    ...[...had].filter((one) => !has.has(one)).map((one) => `gantry security-group revoke ${quoted(name)}${one}`),
  ];
  return lines.join('\n') || `gantry security-group show ${quoted(name)}`;
}

function ruleOptions(rule: GroupRule): string {
  const way = rule.direction === 'egress' ? 'to' : 'from';
  const protocol = rule.protocol ?? 'any';
  const words = [
    ...(protocol === 'any' ? [] : protocol === 'icmp' ? ['--icmp'] : [`--${protocol} ${quoted(rule.ports ?? '1-65535')}`]),
    ...(rule.group ? [`--${way}-group ${rule.group}`] : rule.address_set ? [`--${way}-set ${rule.address_set}`] : rule.cidr ? [`--${way} ${rule.cidr}`] : way === 'to' ? ['--to 0.0.0.0/0'] : []),
  ];
  return words.map((word) => ` ${word}`).join('');
}

export interface Reach {
  from: string;
  to: string;
  /** What may pass, in words; none is never listed. */
  what: string[];
}

export const ANYONE = 'anyone';

/** Who may begin to talk to whom, group by group. A group without a rule that lets out sends everything. */
export function reachOf(groups: readonly SecurityGroup[]): Reach[] {
  const found = new Map<string, Reach>();
  for (const group of groups) {
    for (const rule of group.spec.rules ?? []) {
      const other = rule.group ?? (rule.address_set ? `set ${rule.address_set}` : !rule.cidr || /\/0$/.test(rule.cidr) ? ANYONE : rule.cidr);
      const [from, to] = rule.direction === 'egress' ? [group.metadata.name, other] : [other, group.metadata.name];
      const key = `${from} ${to}`;
      const reach = found.get(key) ?? { from, to, what: [] };
      const words = trafficWords(rule);
      if (!reach.what.includes(words)) reach.what.push(words);
      found.set(key, reach);
    }
  }
  return [...found.values()].sort((a, b) => a.to.localeCompare(b.to) || a.from.localeCompare(b.from));
}
