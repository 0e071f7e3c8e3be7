import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import NetworkDialog from '../../src/features/network/NetworkDialog.svelte';
import TraceForm from '../../src/features/network/TraceForm.svelte';
import Explain from '../../src/features/vm/Explain.svelte';

let mounted: object[] = [];
let requests: { method: string; path: string; body?: unknown }[] = [];
let answers: (path: string) => { status: number; body: object };

function show(component: unknown, props: object): HTMLElement {
  mounted.push(mount(component as never, { target: document.body, props }));
  flushSync();
  return document.body;
}

async function settle(ms = 500) {
  await vi.advanceTimersByTimeAsync(ms);
  flushSync();
}

function type(label: string, text: string) {
  const id = [...document.querySelectorAll('label')].find((one) => one.textContent?.trim() === label)!.htmlFor;
  const input = document.getElementById(id) as HTMLInputElement;
  input.value = text;
  input.dispatchEvent(new Event('input', { bubbles: true }));
  input.dispatchEvent(new Event('change', { bubbles: true }));
  flushSync();
}

const submit = () => document.querySelector('form')!.dispatchEvent(new Event('submit', { bubbles: true, cancelable: true }));

beforeEach(() => {
  requests = [];
  HTMLDialogElement.prototype.showModal = function () {
    this.open = true;
  };
  HTMLDialogElement.prototype.close = () => {};
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  vi.stubGlobal('fetch', async (request: Request) => {
    const url = new URL(request.url);
    const path = url.pathname + url.search;
    requests.push({ method: request.method, path, body: request.method === 'GET' ? undefined : await request.json() });
    const { status, body } = answers(path);
    return new Response(JSON.stringify(body), { status, headers: { 'Content-Type': status < 400 ? 'application/json' : 'application/problem+json' } });
  });
});

afterEach(async () => {
  for (const one of mounted) await unmount(one);
  mounted = [];
  document.body.replaceChildren();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('a dialog that makes something', () => {
  const refusal = {
    type: 'urn:gantry:problem:invalid-network',
    title: 'invalid',
    status: 422,
    class: 'invalid',
    detail: 'the network is not valid',
    fields: [{ field: 'spec.subnet.gateway', message: 'is not in 10.9.0.0/24' }],
  };

  it('shows what will be applied, has it checked, and says what is wrong at the field', async () => {
    answers = () => ({ status: 422, body: refusal });
    const body = show(NetworkDialog, { onclose: () => {} });
    type('Name', 'lan');
    type('Subnet', '10.9.0.0/24');
    type('Gateway', '10.8.0.1');
    await settle();
    expect(body.querySelector('[aria-label=YAML]')!.textContent).toContain('gateway: 10.8.0.1');
    expect(requests.at(-1)!.path).toBe('/v1/networks?dry_run=true');
    expect(body.querySelector('.wrong')!.textContent).toBe('is not in 10.9.0.0/24');
    expect(body.textContent).toContain('gantry network create lan --subnet 10.9.0.0/24 --gateway 10.8.0.1');
  });

  it('sends what it showed, and closes when it was taken', async () => {
    answers = () => ({ status: 201, body: { object: {} } });
    const closed = vi.fn();
    show(NetworkDialog, { onclose: closed });
    type('Name', 'lan');
    type('Subnet', '10.9.0.0/24');
    type('Name servers', '10.9.0.1, 10.9.0.2');
    await settle();
    submit();
    await settle();
    const sent = requests.at(-1)!;
    expect([sent.method, sent.path]).toEqual(['POST', '/v1/networks']);
    expect(sent.body).toEqual({ kind: 'network', metadata: { name: 'lan' }, spec: { subnet: { cidr: '10.9.0.0/24', dns: ['10.9.0.1', '10.9.0.2'] } } });
    expect(closed).toHaveBeenCalledOnce();
  });

  it('stays and says why when it is refused', async () => {
    answers = (path) => (path.includes('dry_run') ? { status: 201, body: {} } : { status: 409, body: { ...refusal, status: 409, detail: 'there is one already', fields: [] } });
    const closed = vi.fn();
    const body = show(NetworkDialog, { onclose: closed });
    type('Name', 'lan');
    await settle();
    submit();
    await settle();
    expect(closed).not.toHaveBeenCalled();
    expect(body.querySelector('[role=alert]')!.textContent).toContain('there is one already');
  });
});

describe('TraceForm', () => {
  it('asks as it says, and tells where the packet ends', async () => {
    answers = () => ({ status: 200, body: { verdict: 'dropped', steps: [{ at: 'web-eth0', what: 'no rule of group db takes it' }] } });
    const body = show(TraceForm, { of: 'web' });
    type('To address', '10.0.0.9');
    type('Port', '5432');
    expect(body.textContent).toContain('gantry port trace web --to 10.0.0.9:5432');
    submit();
    await settle();
    expect(requests.at(-1)!.path).toBe('/v1/ports/web/trace?to=10.0.0.9&protocol=tcp&port=5432');
    expect(body.querySelector('[role=status]')!.textContent).toContain('it is dropped');
    expect(body.textContent).toContain('no rule of group db takes it');
  });
});

describe('Explain', () => {
  it('says why here, and of each other host why not', async () => {
    const terms = [{ name: 'memory', value: 0.5, weight: 2, points: 1 }];
    answers = () => ({
      status: 200,
      body: {
        vm: 'web',
        host: 'h1',
        best: 'h1',
        summary: "VM 'web' is where it would be placed",
        hosts: [
          { host: 'h2', cluster: 'main', fits: false, reason: 'it is cordoned' },
          { host: 'h1', cluster: 'main', fits: true, score: 1.5, terms },
        ],
      },
    });
    const body = show(Explain, { name: 'web' });
    await settle(10);
    const hosts = [...body.querySelectorAll('li')].map((one) => one.textContent!);
    expect(hosts[0]).toContain('it is here');
    expect(hosts[0]).toContain('1.500 points');
    expect(hosts[1]).toContain('it is cordoned');
  });
});
