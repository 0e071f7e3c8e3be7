//! URLs of both APIs, so that server and client can't disagree.

use uuid::Uuid;

pub const HEALTH: &str = "/healthz";
pub const CA: &str = "/v1/ca";
pub const JOIN: &str = "/v1/join";
pub const HEARTBEAT: &str = "/v1/agent/heartbeat";
/// Whether the controller has a record against the host that asks.
pub const AGENT_FENCE: &str = "/v1/agent/fence";
/// New certificates for a host that has valid ones.
pub const RENEW: &str = "/v1/agent/renew";
/// The content of an image by digest, for hosts: `GET`.
pub const AGENT_IMAGE: &str = "/v1/agent/images/{digest}";

pub fn agent_image(digest: &str) -> String {
    format!("/v1/agent/images/{digest}")
}

/// Paths on a host's agent.
pub mod host {
    use super::Uuid;

    pub const OBSERVE: &str = "/v1/observation";
    pub const IMAGE: &str = "/v1/images/{digest}";
    pub const NETWORKS: &str = "/v1/networks";
    pub const RESOURCES: &str = "/v1/resources";
    pub const PORT_CAPTURE: &str = "/v1/ports/{port}/capture";
    pub const VM: &str = "/v1/vms/{vm}";
    pub const VM_POWER: &str = "/v1/vms/{vm}/power";
    pub const VM_ADOPTION: &str = "/v1/vms/{vm}/adoption";
    pub const VM_PROTECTION: &str = "/v1/vms/{vm}/protection";
    pub const VM_LIVENESS: &str = "/v1/vms/{vm}/liveness";
    pub const VM_CONSOLE: &str = "/v1/vms/{vm}/console";
    pub const VM_VNC: &str = "/v1/vms/{vm}/vnc";
    pub const VM_REVERT: &str = "/v1/vms/{vm}/revert";
    pub const SNAPSHOT: &str = "/v1/vms/{vm}/snapshots/{snapshot}";
    pub const RECEIVE: &str = "/v1/vms/{vm}/receive";
    pub const SEND: &str = "/v1/vms/{vm}/send";
    pub const MIGRATION: &str = "/v1/vms/{vm}/migrations/{migration}";
    pub const MIGRATION_VERB: &str = "/v1/vms/{vm}/migrations/{migration}/{verb}";
    pub const DISK_EXPECTATION: &str = "/v1/vms/{vm}/disk/expectation";
    pub const DISK_SENDING: &str = "/v1/vms/{vm}/disk/sending";
    pub const DISK_COPY: &str = "/v1/vms/{vm}/disk/copies/{clone}";
    pub const DISK_CONTENT: &str = "/v1/vms/{vm}/disk/content";

    pub const VM_BACKUP: &str = "/v1/vms/{vm}/backups/{backup}";
    pub const DISK_FILLING: &str = "/v1/vms/{vm}/disk/filling";
    pub const REPOSITORY: &str = "/v1/repository";
    pub const REPOSITORY_BACKUPS: &str = "/v1/repository/backups";
    pub const BACKUP_CHECK: &str = "/v1/backups/{backup}/check";
    pub const BACKUP_DELETION: &str = "/v1/backups/{backup}/deletion";
    pub const BACKUP_CONTENT: &str = "/v1/backups/{backup}/content";

    /// Whether this member has a record against the host that asks: `POST`.
    pub const FENCE_QUESTION: &str = "/v1/fences/question";
    /// The record against a host: `PUT` stores it, `DELETE` lifts it.
    pub const FENCE: &str = "/v1/fences/{host}";
    /// Which of the host's fences the controller knows to be lifted, with each of its calls.
    pub const FENCES_LIFTED_HEADER: &str = "gantry-fences-lifted";

    pub const POOL: &str = "/v1/pools/{pool}";
    pub const POOL_VOLUME: &str = "/v1/pools/{pool}/volumes/{volume}";
    pub const POOL_VOLUME_DELETION: &str = "/v1/pools/{pool}/volumes/{volume}/deletion";
    pub const POOL_VOLUME_SIZE: &str = "/v1/pools/{pool}/volumes/{volume}/size";
    pub const POOL_VOLUME_LEFT: &str = "/v1/pools/{pool}/volumes/{volume}/left";
    pub const POOL_CLOSURE: &str = "/v1/pools/{pool}/closure";
    pub const POOL_MEMBERSHIP: &str = "/v1/pools/{pool}/membership";
    pub const POOL_VOLUME_COPY: &str = "/v1/pools/{pool}/volumes/{volume}/copy";
    pub const POOL_VOLUME_IMAGE: &str = "/v1/pools/{pool}/volumes/{volume}/image";
    pub const POOL_VOLUME_RESTORATION: &str = "/v1/pools/{pool}/volumes/{volume}/restoration";
    pub const POOL_VOLUME_CONTENT: &str = "/v1/pools/{pool}/volumes/{volume}/content";
    pub const VM_VOLUME_MOVE: &str = "/v1/vms/{vm}/volumes/{volume}/move";
    pub const VM_VOLUME_MOVE_CANCEL: &str = "/v1/vms/{vm}/volumes/{volume}/move/cancel";
    pub const VM_DISK_MOVE: &str = "/v1/vms/{vm}/disk/move";
    pub const VM_DISK_MOVE_CANCEL: &str = "/v1/vms/{vm}/disk/move/cancel";
    pub const VM_DISK_LEFT: &str = "/v1/vms/{vm}/disk/left";
    pub const VM_DISK_PEER: &str = "/v1/vms/{vm}/disk/peer";
    pub const VM_DISK_ALONE: &str = "/v1/vms/{vm}/disk/alone";
    pub const POOL_COPY: &str = "/v1/pools/{pool}/copies/{disk}";
    pub const POOL_COPY_SETTLED: &str = "/v1/pools/{pool}/copies/{disk}/settled";
    pub const POOL_COPY_TAKEN: &str = "/v1/pools/{pool}/copies/{disk}/taken";
    pub const POOL_COPY_DELETION: &str = "/v1/pools/{pool}/copies/{disk}/deletion";
    pub const VM_VOLUME: &str = "/v1/vms/{vm}/volumes/{volume}";

    pub fn fence(host: &str) -> String {
        format!("/v1/fences/{host}")
    }
    pub fn pool(pool: Uuid) -> String {
        format!("/v1/pools/{pool}")
    }
    pub fn pool_volume(pool: Uuid, volume: Uuid) -> String {
        format!("/v1/pools/{pool}/volumes/{volume}")
    }
    pub fn pool_copy(pool: Uuid, disk: Uuid) -> String {
        format!("/v1/pools/{pool}/copies/{disk}")
    }
    pub fn vm_volume(vm: Uuid, volume: Uuid) -> String {
        format!("/v1/vms/{vm}/volumes/{volume}")
    }
    pub fn vm_backup(vm: Uuid, backup: Uuid) -> String {
        format!("/v1/vms/{vm}/backups/{backup}")
    }
    pub fn backup_part(backup: Uuid, part: &str) -> String {
        format!("/v1/backups/{backup}/{part}")
    }
    pub fn port_capture(port: Uuid) -> String {
        format!("/v1/ports/{port}/capture")
    }
    pub fn vm(vm: Uuid) -> String {
        format!("/v1/vms/{vm}")
    }
    pub fn vm_part(vm: Uuid, part: &str) -> String {
        format!("/v1/vms/{vm}/{part}")
    }
    pub fn migration(vm: Uuid, migration: Uuid) -> String {
        format!("/v1/vms/{vm}/migrations/{migration}")
    }
    pub fn snapshot(vm: Uuid, snapshot: Uuid) -> String {
        format!("/v1/vms/{vm}/snapshots/{snapshot}")
    }
    pub fn image(digest: &str) -> String {
        format!("/v1/images/{digest}")
    }
}
