// Networks and what belongs to them, as actions.
import { call, type Call } from '../api/client';
import type { FloatingIp, Metadata } from '../api/types';
import type { Action, Answer } from './action';

type Kind = 'network' | 'subnet' | 'port' | 'router' | 'floating-ip' | 'load-balancer' | 'security-group' | 'address-set';

/** Why it may be refused stands in the question, so that nobody is afraid to press. */
const ASKS: Record<Kind, string> = {
  network: 'Refused while a VM or port is in it.',
  subnet: 'Refused while a port has an address of it.',
  port: 'Its addresses are free again. Refused while a VM has it.',
  router: 'Its networks don’t reach each other any more. Refused while a floating address leads through it.',
  'floating-ip': 'The address is given back; what it led to is not reached by it any more.',
  'load-balancer': 'Its address answers no more. Refused while a floating address leads to it.',
  'security-group': 'Refused while a port has it or a rule names it.',
  'address-set': 'Refused while a rule names it.',
};

export function deleteAction(kind: Kind, { name }: Metadata): Action {
  const params = { path: { name } };
  const calls: Record<Kind, () => Call<Answer>> = {
    network: () => call('DELETE', '/v1/networks/{name}', { params }),
    subnet: () => call('DELETE', '/v1/subnets/{name}', { params }),
    port: () => call('DELETE', '/v1/ports/{name}', { params }),
    router: () => call('DELETE', '/v1/routers/{name}', { params }),
    'floating-ip': () => call('DELETE', '/v1/floating-ips/{name}', { params }),
    'load-balancer': () => call('DELETE', '/v1/load-balancers/{name}', { params }),
    'security-group': () => call('DELETE', '/v1/security-groups/{name}', { params }),
    'address-set': () => call('DELETE', '/v1/address-sets/{name}', { params }),
  };
  return { id: 'delete', label: 'Delete', icon: 'delete', danger: true, ask: ASKS[kind], cli: `gantry ${kind} delete ${name}`, call: calls[kind](), asked: `${name} is deleted` };
}

/** From now on, until one of the limits is reached. */
export function captureOf(port: string, seconds: number, mib: number) {
  return {
    cli: `gantry port capture ${port} -w ${port}.pcap --time ${seconds}s --size ${mib}MiB`,
    call: call('GET', '/v1/ports/{name}/capture', { params: { path: { name: port }, query: { seconds, max_bytes: mib * 2 ** 20 } } }),
  };
}

/** The commands that make the addresses of a set these. */
export function addressesCli(name: string, before: readonly string[] | undefined, after: readonly string[]): string {
  if (before === undefined) return ['gantry address-set create', name, ...after].join(' ');
  const added = after.filter((one) => !before.includes(one));
  const gone = before.filter((one) => !after.includes(one));
  return [
    ...(added.length > 0 ? [`gantry address-set add ${name} ${added.join(' ')}`] : []),
    ...(gone.length > 0 ? [`gantry address-set remove ${name} ${gone.join(' ')}`] : []),
  ].join(' && ');
}

export function detachAction(floating: FloatingIp): Action {
  const { name, labels } = floating.metadata;
  const leads = Boolean(floating.spec.vm ?? floating.spec.port ?? floating.spec.load_balancer);
  return {
    id: 'detach',
    label: 'Detach',
    icon: 'link',
    blocked: leads ? undefined : 'it leads nowhere',
    ask: 'The address leads nowhere then, and stays taken.',
    cli: `gantry floating-ip detach ${name}`,
    call: call('PUT', '/v1/floating-ips/{name}', {
      params: { path: { name } },
      body: { kind: 'floating-ip', metadata: { name, labels: labels ?? {} }, spec: { ...floating.spec, vm: null, port: null, load_balancer: null } },
    }),
    asked: `${name} leads nowhere`,
  };
}
