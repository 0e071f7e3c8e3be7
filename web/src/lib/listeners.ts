// What a load balancer listens on, as people type it: `tcp:80:8080`. Pure.
import type { LoadBalancer } from './api/types';

type Listener = LoadBalancer['spec']['listeners'][number];

/** What is no listener becomes one on port 0, which the controller refuses by its place. */
export function listenersOf(text: string): Listener[] {
  return text
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((word) => {
      const [protocol = '', port, target] = word.split(':');
      const listener = { protocol: protocol as Listener['protocol'], port: Number(port) || 0 };
      return target === undefined ? listener : { ...listener, target_port: Number(target) || 0 };
    });
}

/** As it is typed. */
export function listenerText({ protocol = 'tcp', port, target_port: target }: Listener): string {
  return `${protocol}:${port}${target && target !== port ? `:${target}` : ''}`;
}

/** The commands that make the listeners of one these: what is new is listened on, what is gone is not. */
export function listenCli(name: string, before: readonly Listener[], after: readonly Listener[]): string {
  const [then, now] = [before.map(listenerText), after.map(listenerText)];
  const added = now.filter((one) => !then.includes(one));
  const gone = then.filter((one) => !now.includes(one)).map((one) => one.split(':').slice(0, 2).join(':'));
  const lines = [
    ...(gone.length > 0 ? [`gantry load-balancer unlisten ${name} ${gone.join(' ')}`] : []),
    ...(added.length > 0 ? [`gantry load-balancer listen ${name} ${added.join(' ')}`] : []),
  ];
  return lines.join(' && ');
}

export function listenerWords({ protocol = 'tcp', port, target_port: target }: Listener): string {
  return `${protocol.toUpperCase()} ${port}${target && target !== port ? ` (to ${target})` : ''}`;
}
