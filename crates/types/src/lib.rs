//! The vocabulary of Gantry: names, units, labels and the objects that operators and programs speak about.
//!
//! Every object is `{kind, metadata, spec, status}`: `spec` is what is wanted, `status` is what is. This crate owns their
//! shapes, their validation and their transition tables. It does no I/O, reads no clock and draws no random numbers:
//! times and ids come in as values.

mod alarm;
mod backup;
mod backup_schedule;
mod cluster;
mod copies;
mod disk_location;
mod energy;
mod error;
mod event;
mod fencing;
mod flow;
mod ha;
mod host;
mod host_network;
mod image;
mod labels;
mod load_balancer;
mod mac;
mod meta;
mod migration;
mod mirror_nodes;
mod name;
mod network;
mod nfs_export;
mod notice;
mod operation;
mod placement;
mod policy;
mod pool;
mod port;
mod power;
mod probe;
mod problem;
mod receiver;
mod repository;
mod resource;
mod resource_pool;
mod retention;
mod router;
mod secret;
mod security_group;
mod size;
mod snapshot;
mod snapshot_schedule;
mod subnet;
mod time;
mod token;
mod user;
mod vm;
mod vm_phase;
mod volume;

pub use alarm::{
    Alarm, AlarmCondition, AlarmMetric, AlarmSeverity, AlarmSpec, AlarmState, AlarmStatus, EventCondition, FIRINGS_MAX,
    Firing, MetricCondition, ObjectSelector, Silence,
};
pub use backup::{Backup, BackupDisk, BackupPhase, BackupSpec, BackupStatus, LostRange};
pub use backup_schedule::BackupSchedule;
pub use cluster::{Cluster, ClusterSpec, ClusterStatus, CpuBaseline, MAIN_CLUSTER};
pub use copies::DiskCopies;
pub use disk_location::DiskLocation;
pub use energy::EnergySource;
pub use error::ErrorClass;
pub use event::{Event, EventSpec, EventStatus, Severity};
pub use fencing::{Fence, FenceProof, FenceProofKind, HostFence, HostLease, LeaseStanding, Member, Members};
pub use flow::{Flow, FlowPlace, FlowTuple, TcpFlow};
pub use ha::{Displaced, FailureReaction, HaPolicy, HaSpec, HaStatus, LossReaction, Priority};
pub use host::{
    Asleep, CpuInfo, Host, HostLinks, HostMetrics, HostPower, HostSpec, HostState, HostStatus, Inventory, Maintenance,
    PoolInfo, PowerDriverKind, WakeProof,
};
pub use host_network::{
    ExternalLeg, HostBalancer, HostFloatingIp, HostGroup, HostGroupRule, HostMember, HostNetwork, HostNetworks,
    HostPeer, HostRouter, HostSubnet, LocalPort, PeerAddresses, PeerSet, RemotePort, RouterLeg,
};
pub use image::{Image, ImageFormat, ImagePhase, ImageSource, ImageSpec, ImageStatus};
pub use labels::{Labels, Selector};
pub use load_balancer::{
    HealthCheck, InvalidListener, Listener, LoadBalancer, LoadBalancerMember, LoadBalancerSpec, LoadBalancerStatus,
};
pub use mac::MacAddress;
pub use meta::{Metadata, ObjectRef};
pub use migration::{MigrationFigures, MigrationMode, MigrationPolicy, MigrationProgress, PostCopy};
pub use mirror_nodes::MirrorNodes;
pub use name::{InvalidName, Name};
pub use network::{
    InvalidNetworkType, Network, NetworkSpec, NetworkStatus, NetworkType, PortLease, conntrack_zone, gateway_mac,
    vxlan_overhead_bytes,
};
pub use nfs_export::{InvalidNfsUrl, NfsExport};
pub use notice::{Notice, NoticePhase, NoticeSpec, NoticeState, NoticeStatus};
pub use operation::{
    Action, HostUpdate, Operation, OperationPhase, OperationSpec, OperationStatus, Progress, StepState, StepStatus,
};
pub use placement::{DomainLevel, FailureDomain, HostRule, Keep, PlacementRules, ResourceWishes, Strength, VmRule};
pub use policy::{
    Advice, BalancePolicy, Policy, PolicyMode, PolicySpec, PolicyStatus, PowerPolicy, Recommendation, SchedulePolicy,
    StoragePolicy, Weekday,
};
pub use pool::{Pool, PoolHealth, PoolPhase, PoolSpace, PoolSpec, PoolStatus, PoolType};
pub use port::{Port, PortSpec, PortStatus, PortTraffic};
pub use power::{PowerAnswer, PowerOrder, PowerStatus, PowerSwitch};
pub use probe::{Exec, HttpGet, PROBES_PER_VM_MAX, Probe, ProbeCheck, ProbeKind, ProbeState, ProbeStatus, TcpSocket};
pub use problem::{FieldError, Problem};
pub use receiver::{Channel, Email, MailEncryption, Receiver, ReceiverSpec, ReceiverStatus, Webhook};
pub use repository::{
    Repository, RepositoryDirectory, RepositoryPlace, RepositoryReference, RepositorySpec, RepositoryStatus, S3Bucket,
};
pub use resource::Resource;
pub use resource_pool::{
    CpuPart, HostPool, HostResources, MAX_POOL_DEPTH, MemoryPart, PoolOnHost, ResourcePool, ResourcePoolSpec,
    ResourcePoolStatus, ResourcesReport,
};
pub use retention::Retention;
pub use router::{FloatingIp, FloatingIpSpec, FloatingIpStatus, Router, RouterSpec, RouterStatus};
pub use secret::Secret;
pub use security_group::{
    AddressSet, AddressSetSpec, AddressSetStatus, Addresses, Direction, GroupRule, PortRange, Protocol, RuleTraffic,
    SecurityGroup, SecurityGroupSpec, SecurityGroupStatus,
};
pub use size::ByteSize;
pub use snapshot::{
    RecoveryPoint, RecoveryPointKind, RecoveryPolicy, Snapshot, SnapshotMachine, SnapshotPhase, SnapshotSpec,
    SnapshotStatus,
};
pub use snapshot_schedule::SnapshotSchedule;
pub use subnet::{AddressRange, NetworkSubnet, Subnet, SubnetSpec, SubnetStatus};
pub use time::Timestamp;
pub use token::{ApiToken, Role, TokenSpec, TokenStatus};
pub use user::{User, UserSpec, UserStatus};
pub use vm::{Arch, Display, Firmware, GuestInfo, NicSpec, NicStatus, PowerState, Vm, VmMetrics, VmSpec, VmStatus};
pub use vm_phase::VmPhase;
pub use volume::{
    BackedUpVolume, CacheMode, VOLUMES_PER_VM_MAX, Volume, VolumeLimits, VolumePhase, VolumeSpec, VolumeStatus,
};
