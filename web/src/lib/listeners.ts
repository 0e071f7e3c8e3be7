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

export function listenerWords({ protocol = 'tcp', port, target_port: target }: Listener): string {
  return `${protocol.toUpperCase()} ${port}${target && target !== port ? ` (to ${target})` : ''}`;
}
