// The API's nouns under their plain names, as the document has them.
import type { components, paths } from './schema';

type Schemas = components['schemas'];

export type Alarm = Schemas['Alarm'];
export type AlarmCondition = Schemas['AlarmCondition'];
export type AlarmMetric = Schemas['AlarmMetric'];
export type AlarmSeverity = Schemas['AlarmSeverity'];
export type ApiToken = Schemas['ApiToken'];
export type AddressSet = Schemas['AddressSet'];
export type AuditEntry = Schemas['AuditEntry'];
export type Backup = Schemas['Backup'];
export type Cluster = Schemas['Cluster'];
export type EnergyReport = Schemas['EnergyReport'];
export type Event = Schemas['Event'];
export type Firing = Schemas['Firing'];
export type FloatingIp = Schemas['FloatingIp'];
export type Found = Schemas['Found'];
export type GroupRule = Schemas['GroupRule'];
export type Host = Schemas['Host'];
export type HostVerdict = Schemas['HostVerdict'];
export type Image = Schemas['Image'];
export type Metadata = Schemas['Metadata'];
export type LoadBalancer = Schemas['LoadBalancer'];
export type MetricsHistory = Schemas['MetricsHistory'];
export type Network = Schemas['Network'];
export type NetworkSubnet = Schemas['NetworkSubnet'];
export type Notice = Schemas['Notice'];
export type ObjectRef = Schemas['ObjectRef'];
export type Operation = Schemas['Operation'];
export type Policy = Schemas['Policy'];
export type Pool = Schemas['Pool'];
export type Port = Schemas['Port'];
export type Probe = Schemas['Probe'];
export type Problem = Schemas['Problem'];
export type Recommendation = Schemas['Recommendation'];
export type Receiver = Schemas['Receiver'];
export type RecoveryPoint = Schemas['RecoveryPoint'];
export type Repository = Schemas['Repository'];
export type ResourcePool = Schemas['ResourcePool'];
export type Role = Schemas['Role'];
export type Router = Schemas['Router'];
export type SecurityGroup = Schemas['SecurityGroup'];
export type SessionInfo = Schemas['SessionInfo'];
export type Silence = Schemas['Silence'];
export type Snapshot = Schemas['Snapshot'];
export type Trace = Schemas['Trace'];
export type User = Schemas['User'];
export type Vm = Schemas['Vm'];
export type VmPhase = Schemas['VmPhase'];
export type VmSpec = Schemas['VmSpec'];
export type Volume = Schemas['Volume'];
export type VolumeSpec = Schemas['VolumeSpec'];

type Listing<R> = R extends keyof paths
  ? paths[R] extends { get: { parameters: { query?: { watch?: boolean; names?: unknown } }; responses: { 200: { content: { 'application/json': { items: (infer T extends Resource)[] } } } } } }
    ? T
    : never
  : never;

/** Kinds that can be listed and watched, as their addresses name them, and what each lists. */
export type Listed = { [R in keyof paths as R extends `/v1/${infer Plural}` ? (Listing<R> extends never ? never : Plural) : never]: Listing<R> };
export type Plural = keyof Listed;

/** What every object has. `spec` and `status` are of its kind. */
export interface Resource {
  kind?: string;
  metadata: Metadata;
}

/** Of any kind, as it is sent. */
export interface Manifest extends Resource {
  kind: string;
  spec: object;
}

export interface Page<T> {
  items: T[];
  revision: number;
  continue?: string | null;
  /** How many match, if the page was asked for by offset. */
  total?: number | null;
}

/** The answer to a change. */
export interface Changed<T = Resource> {
  object: T;
  operation?: Operation | null;
}
