// The spans of time that charts show.
export const spans = [
  { value: '300', text: '5 min', everyMs: 1_000 },
  { value: '3600', text: '1 h', everyMs: 10_000 },
  { value: '86400', text: '1 day', everyMs: 60_000 },
] as const;

export type Span = (typeof spans)[number]['value'];
