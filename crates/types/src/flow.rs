//! A connection as a host's kernel tracks it, on its way to the host that its VM moves to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One tracked connection of a moving VM (TCP or UDP).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    pub place: FlowPlace,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// As the packet that opened it was.
    pub original: FlowTuple,
    /// As packets of the other direction are: with the translated addresses, if it is translated.
    pub reply: FlowTuple,
    /// How long it is remembered without packets.
    pub timeout_s: u32,
    /// Packets have passed in both directions.
    pub replied: bool,
    /// It is not dropped when the table is full.
    pub assured: bool,
    pub mark: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpFlow>,
}

/// Which of a host's tables a connection is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowPlace {
    /// The network with this VNI.
    Network(u32),
    /// The router with this UUID.
    Router(Uuid),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct FlowTuple {
    #[schema(value_type = String)]
    pub source: IpAddr,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

/// What is known of a TCP connection besides: numbers of the kernel's state and window scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TcpFlow {
    pub state: u8,
    pub original_scale: u8,
    pub reply_scale: u8,
    pub original_flags: u8,
    pub reply_flags: u8,
}

impl FlowTuple {
    /// The other direction, untranslated.
    pub fn inverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

impl Flow {
    /// Whether `address` is one of its ends, translated or not.
    pub fn touches(&self, address: IpAddr) -> bool {
        [&self.original, &self.reply].iter().any(|tuple| tuple.source == address || tuple.destination == address)
    }
}
