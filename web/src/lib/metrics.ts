// Figures over time, as the API gives them: one column per figure, made for charts.
export interface Series {
  step_s: number;
  at: number[];
  cpu_percent: (number | null)[];
  memory_bytes: (number | null)[];
  disk_read_bytes_per_s: (number | null)[];
  disk_write_bytes_per_s: (number | null)[];
  net_rx_bytes_per_s: (number | null)[];
  net_tx_bytes_per_s: (number | null)[];
}

export const spans = [
  { value: '300', text: '5 min', everyMs: 1_000 },
  { value: '3600', text: '1 h', everyMs: 10_000 },
  { value: '86400', text: '1 day', everyMs: 60_000 },
] as const;

export type Span = (typeof spans)[number]['value'];
