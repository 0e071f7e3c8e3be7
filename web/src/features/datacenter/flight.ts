// A VM that has moved is seen to move: its segment flies from one host's bar to the other's.
import { cubicInOut } from 'svelte/easing';
import { crossfade, fade } from 'svelte/transition';

export const [send, receive] = crossfade({
  duration: (distance) => Math.min(900, 300 + Math.sqrt(distance) * 20),
  easing: cubicInOut,
  fallback: (node) => fade(node, { duration: 250 }),
});
