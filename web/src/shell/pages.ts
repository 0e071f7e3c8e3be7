// The UI's pages: address, the code behind it (fetched when it is first gone to), and where it stands in the menu.
import type { Component } from 'svelte';
import type { IconName } from '$lib/ui/icons';

type Loaded = Promise<{ default: Component<{ name: string }> | Component }>;

interface PageSpec {
  /** One `*` stands for an object's name. */
  path: string;
  load: () => Loaded;
  menu?: { text: string; icon: IconName; main?: boolean };
  adminOnly?: boolean;
}

export const pages: PageSpec[] = [
  { path: '/', load: () => import('../pages/Datacenter.svelte'), menu: { text: 'Datacenter', icon: 'datacenter', main: true } },
  { path: '/hosts', load: () => import('../pages/Hosts.svelte'), menu: { text: 'Hosts', icon: 'host', main: true } },
  { path: '/hosts/*', load: () => import('../pages/Host.svelte') },
  { path: '/vms', load: () => import('../pages/Vms.svelte'), menu: { text: 'VMs', icon: 'vm', main: true } },
  { path: '/vms/*', load: () => import('../pages/Vm.svelte') },
  { path: '/images', load: () => import('../pages/Images.svelte'), menu: { text: 'Images', icon: 'image' } },
  { path: '/networks', load: () => import('../pages/Networks.svelte'), menu: { text: 'Networks', icon: 'network' } },
  { path: '/storage', load: () => import('../pages/Storage.svelte'), menu: { text: 'Storage', icon: 'storage' } },
  { path: '/backups', load: () => import('../pages/Backups.svelte'), menu: { text: 'Backups', icon: 'backup' } },
  { path: '/resource-pools', load: () => import('../pages/ResourcePools.svelte'), menu: { text: 'Resource pools', icon: 'share' } },
  { path: '/policies', load: () => import('../pages/Policies.svelte'), menu: { text: 'Policies', icon: 'policy' } },
  { path: '/energy', load: () => import('../pages/Energy.svelte'), menu: { text: 'Energy', icon: 'energy' } },
  { path: '/operations', load: () => import('../pages/Operations.svelte'), menu: { text: 'Operations', icon: 'operation', main: true } },
  { path: '/operations/*', load: () => import('../pages/Operation.svelte') },
  { path: '/alarms', load: () => import('../pages/Alarms.svelte'), menu: { text: 'Alarms', icon: 'alarm' } },
  { path: '/events', load: () => import('../pages/Events.svelte'), menu: { text: 'Events', icon: 'event' } },
  { path: '/audit', load: () => import('../pages/Audit.svelte'), menu: { text: 'Audit', icon: 'audit' }, adminOnly: true },
  { path: '/users', load: () => import('../pages/Users.svelte'), menu: { text: 'Users', icon: 'users' }, adminOnly: true },
  { path: '/my', load: () => import('../pages/My.svelte'), menu: { text: 'My machines', icon: 'mine' } },
];

export interface Found {
  page: PageSpec;
  name: string;
}

export function find(path: string): Found | undefined {
  const parts = path.split('/').filter(Boolean);
  for (const page of pages) {
    const wanted = page.path.split('/').filter(Boolean);
    if (wanted.length !== parts.length) continue;
    if (wanted.every((part, at) => part === '*' || part === parts[at])) {
      return { page, name: decodeURIComponent(parts[wanted.indexOf('*')] ?? '') };
    }
  }
  return undefined;
}
