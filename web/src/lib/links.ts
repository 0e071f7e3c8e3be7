// The page of an object, or the list where it is found.
const PLACES: Record<string, string> = {
  vm: '/vms/*',
  host: '/hosts/*',
  operation: '/operations/*',
  image: '/images?q=*',
  network: '/networks?tab=list&q=*',
  port: '/networks?tab=ports&q=*',
  router: '/networks?tab=routing',
  'load-balancer': '/networks?tab=routing',
  'floating-ip': '/networks?tab=routing',
  subnet: '/networks?tab=routing',
  'security-group': '/networks?tab=groups',
  pool: '/storage?q=*',
  volume: '/storage?tab=volumes&q=*',
  backup: '/backups?q=*',
  repository: '/backups?tab=repositories&q=*',
  'resource-pool': '/resource-pools',
  cluster: '/policies',
  policy: '/policies',
  user: '/users?q=*',
  alarm: '/alarms?q=*',
  receiver: '/alarms?tab=receivers&q=*',
  notice: '/alarms?tab=notices&q=*',
};

/** A snapshot is found on the page of its VM, so that has to be known. */
export function pageOf({ kind, name, vm }: { kind: string; name: string; vm?: string | null }): string | undefined {
  if (kind === 'snapshot') return vm ? `/vms/${encodeURIComponent(vm)}?tab=snapshots` : undefined;
  return PLACES[kind]?.replace('*', encodeURIComponent(name));
}
