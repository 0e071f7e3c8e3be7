// A controller's API for a datacenter of 25,000 hosts and 400,000 VMs, as far as the UI needs it to be looked at and
// measured: nothing is stored, each object is made from its number. It serves web/dist under the real policy.
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';

const dist = new URL('../../dist/', import.meta.url);
const POLICY =
  "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; " +
  "worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const TYPES = { js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml', html: 'text/html; charset=utf-8' };
const PHASES = ['running', 'running', 'running', 'running', 'running', 'running', 'stopped', 'paused'];
const GIB = 2 ** 30;

export class ScaleServer {
  #server;
  #streams = new Set();
  #timers = new Set();
  sent = 0;

  constructor({ hosts = 25_000, vms = 400_000, watchedHosts = 60, watchedVms = 600, updatesPerSecond = 0 } = {}) {
    Object.assign(this, { hosts, vms, watchedHosts, watchedVms, updatesPerSecond });
  }

  async start() {
    this.#server = createServer((request, response) => this.#answer(request, response));
    await new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  async stop() {
    this.#timers.forEach(clearInterval);
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request, response) {
    const url = new URL(request.url, 'http://localhost');
    const { pathname, searchParams: query } = url;
    if (pathname === '/blank') return blank(response);
    if (!pathname.startsWith('/v1/')) return serve(pathname, response);
    const [, , plural, name, part] = pathname.split('/');
    if (plural === 'session') return json(response, { user: { name: 'admin', role: 'admin' }, csrf_token: 'x', datacenter: 'scale' });
    if (plural === 'overview') return this.#overview(name, query, response);
    if (part === 'metrics') return json(response, metrics());
    const count = this.#count(plural);
    if (count === undefined) return problem(response, 404, 'not-found', `there is no ${pathname}`);
    if (name) {
      const index = Number(name.split('-').at(-1));
      return json(response, this.#object(plural, index));
    }
    if (query.get('watch')) return this.#watch(plural, query, response);
    json(response, this.#page(plural, count, query));
  }

  #count(plural) {
    return { vms: this.vms, hosts: this.hosts, images: 3, networks: 2, operations: 2_000, events: 10_000 }[plural];
  }

  #object(plural, index, tick = 0) {
    if (plural === 'vms') return vm(index, this.hosts, tick);
    if (plural === 'hosts') return host(index, tick);
    if (plural === 'images') return image(index);
    if (plural === 'networks') return network(index);
    if (plural === 'operations') return operation(index);
    return event(index);
  }

  /** A search gives each tenth; an order from behind turns the numbers around. */
  #page(plural, count, query) {
    const step = query.get('q') ? 10 : 1;
    const total = Math.floor(count / step);
    const offset = Number(query.get('offset') ?? 0);
    const limit = Number(query.get('limit') ?? 500);
    const turned = query.get('sort')?.startsWith('-') ?? false;
    const items = [];
    for (let at = offset; at < Math.min(total, offset + limit); at += 1) {
      items.push(this.#object(plural, (turned ? total - 1 - at : at) * step));
    }
    return { items, revision: 1, total };
  }

  /** Of those that are named, or of the first. */
  #watch(plural, query, response) {
    const send = begin(response);
    const all = Math.min(this.#count(plural), plural === 'vms' ? this.watchedVms : plural === 'hosts' ? this.watchedHosts : 10);
    const names = query.get('names')?.split(',');
    const indexes = names ? names.map((name) => Number(name.split('-').at(-1))) : Array.from({ length: all }, (_, index) => index);
    for (const index of indexes) send('added', { change: 'added', revision: 0, object: this.#object(plural, index) });
    send('bookmark', { change: 'bookmark', revision: 1 }, 1);
    if (plural === 'vms' && this.updatesPerSecond > 0) {
      this.#every(response, 20, (tick) => {
        for (let n = 0; n < this.updatesPerSecond / 50; n += 1) {
          this.sent += 1;
          const index = indexes[this.sent % indexes.length];
          send('modified', { change: 'modified', revision: this.sent + 1, object: this.#object(plural, index, tick) }, this.sent + 1);
        }
      });
    }
  }

  #overview(part, query, response) {
    if (part === 'hosts') return this.#bars(query, response);
    const send = begin(response);
    const racks = Math.ceil(this.hosts / 20);
    const groups = Array.from({ length: racks }, (_, rack) => ({ name: `rack-${String(rack).padStart(4, '0')}`, ...totals(20, 320) }));
    const wrong = [
      { severity: 'critical', object: { kind: 'host', name: 'host-17' }, what: 'Host host-17 does not answer.', remedy: 'Look at its power and its network.', since: ago(95) },
      { severity: 'warning', object: { kind: 'image', name: 'fedora' }, what: 'Image fedora could not be imported: the disk is full.', remedy: 'Free space, then send its content again.' },
    ];
    send('overview', { revision: 1, at: ago(0), datacenter: 'scale', by: 'rack', totals: totals(this.hosts, this.vms), groups, wrong, wrong_total: 2 });
    this.#every(response, 1_000, () => send('changed', { revision: 2, at: ago(0), totals: totals(this.hosts, this.vms) }));
  }

  #bars(query, response) {
    const send = begin(response);
    const first = query.get('group') ? Number(query.get('group').split('-')[1]) * 20 : 0;
    const count = query.get('group') ? 20 : Math.min(this.hosts, 500, this.watchedHosts);
    const perHost = Math.ceil(this.watchedVms / count);
    for (let index = first; index < first + count; index += 1) send('host', barOf(index, perHost, this.hosts, 0));
    send('ready', {});
    if (this.updatesPerSecond === 0) return;
    // Each message tells of one host; an update is one of its VMs.
    this.#every(response, 20, (tick) => {
      for (let n = 0; n < this.updatesPerSecond / 50; n += 1) {
        this.sent += 1;
        send('host', barOf(first + (this.sent % count), perHost, this.hosts, tick));
      }
    });
  }

  #every(response, ms, act) {
    let tick = 0;
    const timer = setInterval(() => act((tick += 1)), ms);
    this.#timers.add(timer);
    response.on('close', () => clearInterval(timer));
  }
}

function begin(response) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  return (name, data, id) => response.write(`event: ${name}\n${id ? `id: ${id}\n` : ''}data: ${JSON.stringify(data)}\n\n`);
}

/** What the browser draws when there is nothing to draw. */
function blank(response) {
  response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' });
  response.end('<!doctype html><html lang="en"><title>blank</title><body></body></html>');
}

function serve(pathname, response) {
  const file = new URL(`.${pathname}`, dist);
  const found = pathname !== '/' && existsSync(file) ? file : new URL('index.html', dist);
  const type = TYPES[found.pathname.split('.').at(-1)] ?? 'application/octet-stream';
  response.writeHead(200, { 'Content-Type': type, 'Content-Security-Policy': POLICY });
  createReadStream(found).pipe(response);
}

function json(response, body) {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

function problem(response, status, code, detail) {
  response.writeHead(status, { 'Content-Type': 'application/problem+json' });
  response.end(JSON.stringify({ type: `urn:gantry:problem:${code}`, title: code, status, class: 'not_found', detail }));
}

const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();
const metadata = (name, index, labels = {}) => ({ name, labels, uuid: uuid(index), revision: 1, created_at: ago(86_400 + index % 5_000) });
const uuid = (index) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`;

function vm(index, hosts, tick) {
  const phase = PHASES[index % PHASES.length];
  const host = `host-${Math.floor(index / 16) % hosts}`;
  const moving = tick > 0 && index % 97 === 0;
  return {
    kind: 'vm',
    metadata: metadata(`vm-${String(index).padStart(6, '0')}`, index),
    spec: { cpus: 1 + (index % 4), memory: `${1 + (index % 3)}GiB`, image: 'debian', nics: [{ network: 'default' }], power: 'running' },
    status: {
      phase: moving ? 'migrating' : phase,
      host,
      moving_to: moving ? `host-${(index + 1) % hosts}` : undefined,
      epoch: 1,
      ready: phase === 'running',
      nics: [{ network: 'default', port: uuid(index), mac: '52:54:00:00:00:01', address: `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}` }],
      guest: { hostname: `vm-${index}`, os: 'Debian GNU/Linux 12' },
      accelerator: 'kvm',
      started_at: ago(4_000),
      metrics: { cpu_time_ms: 1, cpu_percent: (index * 7 + tick) % 100, resident_memory: '512MiB', disk_read_bytes_per_s: 0, disk_write_bytes_per_s: 0, net_rx_bytes_per_s: 0, net_tx_bytes_per_s: 0 },
    },
  };
}

function barOf(index, perHost, hosts, tick) {
  const { metadata, spec, status } = host(index);
  const vms = Array.from({ length: perHost }, (_, n) => {
    const made = vm(index * perHost + n, hosts, tick);
    const memory_bytes = (1 + ((index * perHost + n) % 3)) * GIB;
    return { name: made.metadata.name, phase: made.status.phase, cpus: made.spec.cpus, memory_bytes, watts: 2 + (n % 3), moving_to: made.status.moving_to };
  });
  return {
    name: metadata.name,
    state: index % 9 === 8 ? 'sleeping' : status.state,
    cordoned: spec.cordoned,
    labels: metadata.labels,
    cpu: { capacity_cores: 64, assigned_cores: 30, used_cores: ((index * 13 + tick) % 60) + 0.5 },
    memory: { capacity_bytes: 64 * GIB, assigned_bytes: 30 * GIB, used_bytes: (20 + ((index + tick) % 40)) * GIB },
    power: { most_watts: 135, used_watts: 95 + ((index + tick) % 40) },
    last_seen: status.last_seen,
    vms: index % 9 === 8 ? [] : vms,
    vms_total: index % 9 === 8 ? 0 : perHost,
  };
}

function totals(hosts, vms) {
  return {
    hosts: { total: hosts, ready: hosts - 2, lost: 1, sleeping: 1, cordoned: 1 },
    vms: { total: vms, running: Math.floor(vms * 0.8), stopped: Math.floor(vms * 0.1) },
    cpu: { capacity_cores: hosts * 64, assigned_cores: vms * 2, used_cores: hosts * 20.5 },
    memory: { capacity_bytes: hosts * 64 * GIB, assigned_bytes: vms * GIB, used_bytes: hosts * 24 * GIB },
    power: { most_watts: hosts * 135, used_watts: hosts * 104 },
  };
}

function host(index) {
  const lost = index % 30 === 17;
  return {
    kind: 'host',
    metadata: metadata(`host-${index}`, index, { rack: `rack-${String(Math.floor(index / 20)).padStart(3, '0')}` }),
    spec: { cordoned: index % 23 === 5 },
    status: {
      state: lost ? 'lost' : 'ready',
      agent_address: `10.64.${index >> 8}.${index & 255}:7444`,
      underlay_address: `10.64.${index >> 8}.${index & 255}`,
      agent_keys: [],
      last_seen: ago(lost ? 95 : 0),
      metrics: lost ? undefined : { cpu_percent: (index * 13) % 90, memory_used: `${20 + (index % 40)}GiB`, load_1m: 1.5 },
      inventory: {
        arch: 'x86_64',
        cpu: { count: 64, model: 'EPYC', flags: [] },
        memory: '64GiB',
        qemu_version: '7.2',
        kvm: true,
        guest_archs: ['x86_64'],
        sandbox: true,
        post_copy: true,
        kernel: '6.1',
        agent_version: '0.1.0',
        pools: [{ name: 'default', capacity: '2TiB', free: '1TiB' }],
      },
    },
  };
}

function image(index) {
  const status = { phase: 'ready', digest: 'ab'.repeat(32), virtual_size: '2GiB', file_size: '400MiB', source_format: 'qcow2' };
  return { kind: 'image', metadata: metadata(['debian', 'alpine', 'fedora'][index], index), spec: { source: 'upload' }, status };
}

function network(index) {
  return {
    kind: 'network',
    metadata: metadata(['default', 'storage'][index], index),
    spec: { mtu: 1450, subnet: { cidr: `10.${index}.0.0/8` } },
    status: { vni: 1000 + index, leases: {} },
  };
}

function operation(index) {
  const phase = index % 40 === 3 ? 'failed' : index < 1 ? 'running' : 'succeeded';
  const error = {
    type: 'urn:gantry:problem:no-host-fits',
    title: 'no host fits',
    status: 409,
    class: 'conflict',
    detail: "VM 'vm-3' fits on no host: host-1 is cordoned",
    remedy: 'free memory, or uncordon a host',
  };
  return {
    kind: 'operation',
    metadata: metadata(`vm-start-${index}`, index),
    spec: { action: { action: 'vm_start' }, target: { kind: 'vm', name: `vm-${String(index).padStart(6, '0')}`, uuid: uuid(index) }, requested_by: 'user/admin' },
    status: {
      phase,
      error: phase === 'failed' ? error : undefined,
      started_at: ago(100),
      finished_at: phase === 'running' ? undefined : ago(99),
      steps: ['place', 'addresses', 'image', 'define'].map((name) => ({ name, state: phase === 'running' && name === 'define' ? 'running' : 'done', attempts: 1, started_at: ago(100), finished_at: ago(99) })),
      progress: phase === 'running' ? { message: 'fetching the image', bytes_done: 0.4 * GIB, bytes_total: GIB, rate_bytes_per_s: 1e8 } : undefined,
    },
  };
}

function event(index) {
  return {
    kind: 'event',
    metadata: metadata(`event-${index}`, index),
    spec: { regarding: { kind: 'vm', name: `vm-${String(index).padStart(6, '0')}`, uuid: uuid(index) }, severity: index % 50 ? 'normal' : 'warning', reason: 'VmStarted', message: `VM 'vm-${index}' runs on host-1` },
    status: {},
  };
}

function metrics() {
  const now = Math.floor(Date.now() / 1000);
  const at = Array.from({ length: 300 }, (_, step) => now - 300 + step);
  const wave = (size, turn) => at.map((second) => size * (0.5 + 0.3 * Math.sin(second / turn) + 0.15 * Math.sin(second / 3)));
  return {
    step_s: 1,
    at,
    cpu_percent: wave(80, 20),
    memory_bytes: wave(0.3 * GIB, 90),
    disk_read_bytes_per_s: wave(3e6, 11),
    disk_write_bytes_per_s: wave(8e6, 17),
    net_rx_bytes_per_s: wave(2e6, 13),
    net_tx_bytes_per_s: wave(1e6, 19),
  };
}
