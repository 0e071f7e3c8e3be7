import { flushSync, mount, unmount } from 'svelte';
import { afterEach, describe, expect, it, vi } from 'vitest';
import HostBar from '../../src/features/datacenter/HostBar.svelte';
import WrongList from '../../src/features/datacenter/WrongList.svelte';
import type { HostBar as HostBarValue } from '../../src/lib/live/overview.svelte';
import Button from '../../src/lib/ui/Button.svelte';
import ProblemNote from '../../src/lib/ui/ProblemNote.svelte';
import State from '../../src/lib/ui/State.svelte';

let mounted: object[] = [];

function show<P extends Record<string, unknown>>(component: unknown, props: P): HTMLElement {
  mounted.push(mount(component as never, { target: document.body, props }));
  flushSync();
  return document.body;
}

afterEach(async () => {
  for (const one of mounted) await unmount(one);
  mounted = [];
  document.body.replaceChildren();
});

describe('State', () => {
  it('says the state in words, so that colour never stands alone', () => {
    expect(show(State, { state: 'cancel_requested' }).textContent).toContain('cancel requested');
  });
});

describe('Button', () => {
  it('can’t be pressed while the answer has not come', () => {
    const pressed = vi.fn();
    const button = show(Button, { label: 'Start', busy: true, onclick: pressed }).querySelector('button')!;
    button.click();
    expect(pressed).not.toHaveBeenCalled();
    expect(button.getAttribute('aria-busy')).toBe('true');
    expect(button.getAttribute('aria-label')).toBe('Start');
  });
});

describe('ProblemNote', () => {
  it('shows cause, fields and remedy as text, whatever is in them', () => {
    const problem = {
      type: 'urn:gantry:problem:invalid-vm',
      title: 'invalid',
      status: 422,
      class: 'invalid' as const,
      detail: '<img src=x onerror=alert(1)> is no name',
      remedy: 'use another',
      fields: [{ field: 'spec.memory', message: 'too little' }],
    };
    const body = show(ProblemNote, { problem });
    expect(body.querySelector('img')).toBeNull();
    expect(body.textContent).toContain('<img src=x');
    expect(body.textContent).toContain('too little');
    expect(body.textContent).toContain('use another');
    expect(body.querySelector('[role=alert]')).not.toBeNull();
  });
});

describe('WrongList', () => {
  it('gives each trouble its remedy and the way there', () => {
    const body = show(WrongList, { list: [{ severity: 'critical', object: { kind: 'host', name: 'h1' }, what: 'Host h1 does not answer.', remedy: 'Look at its power.' }], total: 3 });
    expect(body.textContent).toContain('Look at its power.');
    expect(body.querySelector('a')?.getAttribute('href')).toBe('/hosts/h1');
    expect(body.textContent).toContain('and 2 more');
  });
});

describe('HostBar', () => {
  const host: HostBarValue = {
    name: 'h1',
    state: 'ready',
    cordoned: false,
    labels: {},
    cpu: { capacity_cores: 4, assigned_cores: 0, used_cores: 0 },
    memory: { capacity_bytes: 4, assigned_bytes: 0, used_bytes: 0 },
    power: { most_watts: 0, used_watts: 0 },
    vms: [{ name: 'a', phase: 'running', cpus: 1, memory_bytes: 2, watts: 0 }],
    vms_total: 1,
  };

  it('draws each VM in proportion, and one that arrives as arriving', () => {
    const arriving = [{ name: 'b', phase: 'migrating' as const, cpus: 1, memoryBytes: 1, arriving: true, from: 'h2' }];
    const body = show(HostBar, { bar: { value: host, arriving }, measure: 'memory' });
    const [a, b] = body.querySelectorAll<HTMLElement>('[data-vm]');
    expect(a!.style.flexBasis).toBe('50%');
    expect(b!.title).toContain('arriving');
  });

  it('says that a host sleeps', () => {
    expect(show(HostBar, { bar: { value: { ...host, state: 'sleeping' }, arriving: [] }, measure: 'cpu' }).textContent).toContain('sleeping');
  });
});
