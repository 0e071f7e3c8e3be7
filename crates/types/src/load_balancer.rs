//! `load-balancer`: one address in front of many VMs.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Name, Protocol, Selector, Timestamp, resource::resource};

resource!(
    /// A virtual address whose connections the hosts spread over VMs, each host those of its own VMs.
    LoadBalancer, "load-balancer", "load-balancers", LoadBalancerSpec, LoadBalancerStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancerSpec {
    /// The network that it has its address in; a router leads to it. Fixed once it is made.
    pub network: Name,
    /// The lowest free one if not given. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// 1 to 32.
    pub listeners: Vec<Listener>,
    /// The VMs behind it, by their labels. Each takes part with its card in `network`, or else in another network of
    /// the same router.
    #[schema(value_type = String)]
    pub members: Selector,
    #[serde(default)]
    pub health: HealthCheck,
}

/// What it listens on: `tcp 80`, `tcp 80 to 8080`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    pub port: u16,
    /// The port of its members, the same if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

impl Listener {
    pub fn target_port(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}

/// `tcp 80`, `tcp 80 to 8080`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.port)?;
        match self.target_port.filter(|target| *target != self.port) {
            Some(target) => write!(f, " to {target}"),
            None => Ok(()),
        }
    }
}

/// Why a text is not a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a listener: write tcp:80, tcp:80:8080 (to port 8080 of the members) or udp:53")]
pub struct InvalidListener(String);

/// As people type it: `tcp:80`, `tcp:80:8080`.
impl FromStr for Listener {
    type Err = InvalidListener;
    fn from_str(text: &str) -> Result<Self, InvalidListener> {
        let bad = || InvalidListener(text.chars().filter(|c| !c.is_control()).take(40).collect());
        let mut parts = text.split(':');
        let protocol = match parts.next() {
            Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            _ => return Err(bad()),
        };
        let number = |part: &str| part.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let port = number(parts.next().ok_or_else(bad)?)?;
        let target_port = parts.next().map(number).transpose()?;
        if parts.next().is_some() { Err(bad()) } else { Ok(Self { protocol, port, target_port }) }
    }
}

/// How a member's host finds out whether it serves: a connection that is accepted, or an HTTP answer of 200 to 399.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// The path that is asked for by HTTP; without one a TCP connection is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
    /// That of the first TCP listener's members if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one check to the next, 1 to 300 s.
    pub interval_s: u32,
    /// An answer that takes longer is none, 1 to 60 s, at most `interval_s`.
    pub timeout_s: u32,
    /// So many good ones in a row make a member healthy, 1 to 10.
    pub healthy_after: u32,
    /// So many bad ones in a row make it unhealthy, 1 to 10.
    pub unhealthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { http_path: None, port: None, interval_s: 2, timeout_s: 1, healthy_after: 1, unhealthy_after: 2 }
    }
}

impl LoadBalancerSpec {
    /// The port of the members that is checked.
    pub fn checked_port(&self) -> Option<u16> {
        let tcp = self.listeners.iter().find(|listener| listener.protocol == Protocol::Tcp);
        self.health.port.or_else(|| tcp.map(Listener::target_port))
    }

    /// All that is wrong with it by itself, as field and message.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut wrong = |field: String, message: String| mistakes.push((field, message));
        if !(1..=32).contains(&self.listeners.len()) {
            wrong("spec.listeners".to_owned(), format!("there are {}, use 1 to 32", self.listeners.len()));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let at = format!("spec.listeners[{index}]");
            if !matches!(listener.protocol, Protocol::Tcp | Protocol::Udp) {
                wrong(format!("{at}.protocol"), format!("{} can't be balanced, use tcp or udp", listener.protocol));
            }
            if listener.port == 0 || listener.target_port == Some(0) {
                wrong(format!("{at}.port"), "0 is no port, use 1 to 65535".to_owned());
            }
            let same = |other: &Listener| (other.protocol, other.port) == (listener.protocol, listener.port);
            if self.listeners[..index].iter().any(same) {
                wrong(at, format!("'{} {}' is there twice", listener.protocol, listener.port));
            }
        }
        if self.members.is_empty() {
            wrong("spec.members".to_owned(), "it would choose every VM; write a selector such as tier=web".to_owned());
        }
        let check = &self.health;
        if self.checked_port().is_none() {
            let message = "no listener is tcp: name a TCP port of the members that tells whether they serve";
            wrong("spec.health.port".to_owned(), message.to_owned());
        }
        let path_is_good = |path: &String| {
            path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if let Some(path) = check.http_path.as_ref().filter(|path| !path_is_good(path)) {
            let shown: String = path.chars().filter(|c| !c.is_control()).take(60).collect();
            let message = format!("'{shown}' is no path: it begins with '/', without blanks, at most 1024 characters");
            wrong("spec.health.http_path".to_owned(), message);
        }
        let ranges = [
            ("interval_s", check.interval_s, 1..=300),
            ("timeout_s", check.timeout_s, 1..=check.interval_s.clamp(1, 60)),
            ("healthy_after", check.healthy_after, 1..=10),
            ("unhealthy_after", check.unhealthy_after, 1..=10),
        ];
        for (field, value, range) in ranges.into_iter().filter(|(_, value, range)| !range.contains(value)) {
            let message = format!("{value} is out of range, use {} to {}", range.start(), range.end());
            wrong(format!("spec.health.{field}"), message);
        }
        mistakes
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadBalancerStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// By the VM's name. Only healthy ones get new connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<LoadBalancerMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadBalancerMember {
    pub vm: Name,
    /// Of the VM's card.
    pub port: Uuid,
    #[schema(value_type = String)]
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    pub healthy: bool,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When `healthy` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_read_as_they_are_typed() {
        for (text, shown) in [("tcp:80", "tcp 80"), ("tcp:80:8080", "tcp 80 to 8080"), ("udp:53:53", "udp 53")] {
            assert_eq!(text.parse::<Listener>().unwrap().to_string(), shown);
        }
        for bad in ["", "80", "tcp", "tcp:0", "tcp:80:", "icmp:1", "tcp:1:2:3", "tcp:65536"] {
            assert!(bad.parse::<Listener>().unwrap_err().to_string().contains("tcp:80:8080"), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_field() {
        let good: LoadBalancerSpec = serde_json::from_str(
            r#"{"network": "web", "listeners": [{"port": 80, "target_port": 8080}], "members": "tier=web"}"#,
        )
        .unwrap();
        assert_eq!((good.mistakes(), good.checked_port()), (Vec::new(), Some(8080)));
        let mut wrong = good.clone();
        wrong.members = Selector::default();
        wrong.listeners = vec!["udp:53".parse().unwrap(), "udp:53".parse().unwrap()];
        wrong.listeners[0].protocol = Protocol::Icmp;
        wrong.listeners.push("udp:53".parse().unwrap());
        wrong.health = HealthCheck { http_path: Some("x y".to_owned()), timeout_s: 3, ..HealthCheck::default() };
        let fields: Vec<_> = wrong.mistakes().into_iter().map(|(field, _)| field).collect();
        let expected = [
            "spec.listeners[0].protocol",
            "spec.listeners[2]",
            "spec.members",
            "spec.health.port",
            "spec.health.http_path",
            "spec.health.timeout_s",
        ];
        assert_eq!(fields, expected);
    }
}
