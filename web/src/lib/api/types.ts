// The API's nouns under their plain names.
import type { components } from './schema';

type Schemas = components['schemas'];

export type Vm = Schemas['Vm'];
export type VmSpec = Schemas['VmSpec'];
export type VmPhase = Schemas['VmPhase'];
export type VmMetrics = Schemas['VmMetrics'];
export type Host = Schemas['Host'];
export type Image = Schemas['Image'];
export type Network = Schemas['Network'];
export type Operation = Schemas['Operation'];
export type OperationPhase = Schemas['OperationPhase'];
export type Event = Schemas['Event'];
export type Problem = Schemas['Problem'];
export type ObjectRef = Schemas['ObjectRef'];
export type Metadata = Schemas['Metadata'];

/** What every object has. `spec` and `status` are of its kind. */
export interface Resource {
  kind?: string;
  metadata: Metadata;
}

export interface Page<T> {
  items: T[];
  revision: number;
  continue?: string | null;
  /** How many match, if the page was asked for by offset. */
  total?: number | null;
}

/** The answer to a change. */
export interface Changed<T> {
  object: T;
  operation?: Operation | null;
}
