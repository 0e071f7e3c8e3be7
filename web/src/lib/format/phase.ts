// How each state is shown: its tone, which carries the colour, and its word. Colour never stands alone.
export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'idle' | 'sleep';

const TONES: Record<string, Tone> = {
  running: 'good',
  ready: 'good',
  attached: 'good',
  healthy: 'good',
  succeeded: 'good',
  active: 'good',
  done: 'good',
  ok: 'good',
  delivered: 'good',
  passing: 'good',
  resolved: 'good',
  normal: 'idle',
  starting: 'busy',
  migrating: 'busy',
  stopping: 'busy',
  importing: 'busy',
  joining: 'busy',
  creating: 'busy',
  attaching: 'busy',
  detaching: 'busy',
  pending: 'busy',
  unwinding: 'warn',
  warning: 'warn',
  refused: 'warn',
  paused: 'warn',
  cordoned: 'warn',
  acknowledged: 'warn',
  nearly_full: 'warn',
  unknown: 'bad',
  lost: 'bad',
  fenced: 'bad',
  failed: 'bad',
  failing: 'bad',
  critical: 'bad',
  firing: 'bad',
  damaged: 'bad',
  full: 'bad',
  not_writable: 'bad',
  read_only: 'bad',
  missing: 'bad',
  unreachable: 'bad',
  stopped: 'idle',
  cancelled: 'idle',
  undone: 'idle',
  deleting: 'idle',
  sleeping: 'sleep',
  asleep: 'sleep',
  silenced: 'sleep',
};

export function toneOf(state: string | null | undefined): Tone {
  return TONES[state ?? ''] ?? 'idle';
}

export function wordOf(state: string | null | undefined): string {
  return (state ?? 'unknown').replaceAll('_', ' ');
}

/** `vm_start` or `vm-start` as a title: `Start`. */
export function actionWord(action: string): string {
  const word = action.replace(/^(vm|image|host|network|volume|pool|backup)[_-]/, '').replaceAll(/[_-]/g, ' ');
  return word.charAt(0).toUpperCase() + word.slice(1);
}
