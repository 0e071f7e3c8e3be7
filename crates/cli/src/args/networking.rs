//! `gantry subnet|port|security-group|address-set …`

use std::net::IpAddr;

use clap::{Args, Subcommand};
use gantry_types::{AddressRange, Addresses, MacAddress, Name, PortRange, Protocol};
use ipnet::IpNet;

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum SubnetCommand {
    /// Give a network more addresses, of the same family or the other
    Create(SubnetCreate),
    /// All subnets, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one subnet
    Show {
        /// The subnet's name
        name: String,
    },
    /// Delete subnets of which no port has an address
    #[command(visible_alias = "rm")]
    Delete {
        /// The subnets' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct SubnetCreate {
    /// What it is to be called
    pub name: Name,
    /// The network it belongs to
    #[arg(long)]
    pub network: Name,
    /// For example 10.9.1.0/24 or fd00:9::/64
    #[arg(long)]
    pub cidr: IpNet,
    /// The default gateway told to guests
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// A name server told to guests; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// An address never handed out; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub reserve: Vec<IpAddr>,
    /// Choose addresses only from here, for example 10.9.1.10-10.9.1.99; may be given several times
    #[arg(long, value_name = "FIRST-LAST")]
    pub range: Vec<AddressRange>,
}

#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Make a port beforehand: its addresses stay when a VM that has it is deleted
    Create(PortCreate),
    /// All ports, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List {
        /// Only ports of this network
        #[arg(long, value_name = "NAME")]
        network: Option<Name>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Everything about one port
    Show {
        /// The port's name; of a VM's cards: VM-eth0, VM-eth1, …
        name: String,
    },
    /// Where a packet of a VM would go, and which rule allows or drops it; exits with 1 if it does not arrive
    Trace {
        /// A VM or a port
        name: String,
        /// ADDRESS or ADDRESS:PORT ([ADDRESS]:PORT for IPv6)
        #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_destination)]
        to: Destination,
        /// tcp (needs a port), udp, sctp, icmp, or any
        #[arg(long, value_parser = super::vm::parse_by_api_name::<Protocol>)]
        protocol: Option<Protocol>,
    },
    /// What passes a VM's port from now on, as a pcap file for Wireshark; ends by its limits or with Ctrl-C
    Capture {
        /// A VM (its first card) or a port
        name: String,
        /// Where it is written; `-` is standard output: gantry port capture web-1 | wireshark -k -i -
        #[arg(short = 'w', long, value_name = "FILE", default_value = "-")]
        write: std::path::PathBuf,
        /// End after this long
        #[arg(long, default_value = "60s", value_parser = super::parse_duration)]
        time: std::time::Duration,
        /// End when the file is this large, at most 1GiB
        #[arg(long, default_value = "10MiB", value_name = "SIZE")]
        size: gantry_types::ByteSize,
    },
    /// Delete ports that no VM has
    #[command(visible_alias = "rm")]
    Delete {
        /// The ports' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Where a traced packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub address: IpAddr,
    pub port: Option<u16>,
}

fn parse_destination(text: &str) -> Result<Destination, String> {
    if let Ok(address) = text.parse() {
        return Ok(Destination { address, port: None });
    }
    let with_port = text.parse::<std::net::SocketAddr>();
    let with_port =
        with_port.map_err(|_| format!("'{text}' is not ADDRESS or ADDRESS:PORT, such as 10.20.0.5:5432"))?;
    Ok(Destination { address: with_port.ip(), port: Some(with_port.port()) })
}

#[derive(Debug, Args)]
pub struct PortCreate {
    /// What it is to be called
    pub name: Name,
    /// The network it is in
    #[arg(long)]
    pub network: Name,
    /// An address it is to have; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// Derived from its uuid if not given
    #[arg(long)]
    pub mac: Option<MacAddress>,
    /// A security group; may be given several times
    #[arg(long, value_name = "NAME")]
    pub group: Vec<Name>,
}

#[derive(Debug, Subcommand)]
pub enum SecurityGroupCommand {
    /// Make a group that allows nothing in yet
    Create {
        /// What it is to be called
        name: Name,
    },
    /// All security groups, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one security group
    Show {
        /// The group's name
        name: String,
    },
    /// Add a rule
    Allow {
        /// The group's name
        name: Name,
        #[command(flatten)]
        rule: RuleOptions,
    },
    /// Take a rule out, given as it was allowed; flows that only it allowed end at once
    Revoke {
        /// The group's name
        name: Name,
        #[command(flatten)]
        rule: RuleOptions,
    },
    /// Give it to VMs (all their cards) and ports
    Attach {
        /// The group's name
        name: Name,
        #[command(flatten)]
        to: Holders,
    },
    /// Take it from VMs and ports
    Detach {
        /// The group's name
        name: Name,
        #[command(flatten)]
        from: Holders,
    },
    /// Delete security groups that no port has and no rule names
    #[command(visible_alias = "rm")]
    Delete {
        /// The groups' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Without a protocol: any. Without --from and --to: from anywhere.
#[derive(Debug, Clone, Default, Args)]
pub struct RuleOptions {
    /// TCP to these ports: 443 or 8000-8099
    #[arg(long, value_name = "PORTS", group = "protocol")]
    pub tcp: Option<PortRange>,
    /// UDP to these ports
    #[arg(long, value_name = "PORTS", group = "protocol")]
    pub udp: Option<PortRange>,
    /// SCTP to these ports
    #[arg(long, value_name = "PORTS", group = "protocol")]
    pub sctp: Option<PortRange>,
    /// ICMP and ICMPv6
    #[arg(long, group = "protocol")]
    pub icmp: bool,
    /// Into the VM, from these addresses
    #[arg(long, value_name = "CIDR", group = "peer")]
    pub from: Option<Addresses>,
    /// Into the VM, from ports with this security group
    #[arg(long, value_name = "GROUP", group = "peer")]
    pub from_group: Option<Name>,
    /// Into the VM, from the addresses of this set
    #[arg(long, value_name = "ADDRESS-SET", group = "peer")]
    pub from_set: Option<Name>,
    /// Out of the VM, to these addresses
    #[arg(long, value_name = "CIDR", group = "peer")]
    pub to: Option<Addresses>,
    /// Out of the VM, to ports with this security group
    #[arg(long, value_name = "GROUP", group = "peer")]
    pub to_group: Option<Name>,
    /// Out of the VM, to the addresses of this set
    #[arg(long, value_name = "ADDRESS-SET", group = "peer")]
    pub to_set: Option<Name>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Holders {
    /// A VM that has been started once; may be given several times
    #[arg(long, value_name = "NAME")]
    pub vm: Vec<Name>,
    /// A port; may be given several times
    #[arg(long, value_name = "NAME")]
    pub port: Vec<Name>,
}

#[derive(Debug, Subcommand)]
pub enum AddressSetCommand {
    /// Name some addresses, for the rules of security groups
    Create {
        /// What it is to be called
        name: Name,
        /// Addresses and ranges: 10.1.0.5, 192.0.2.0/24
        addresses: Vec<Addresses>,
    },
    /// Add addresses; rules that name the set follow at once
    Add {
        /// The set's name
        name: Name,
        /// Addresses and ranges
        #[arg(required = true)]
        addresses: Vec<Addresses>,
    },
    /// Take addresses out
    Remove {
        /// The set's name
        name: Name,
        /// Addresses and ranges, as they were added
        #[arg(required = true)]
        addresses: Vec<Addresses>,
    },
    /// All address sets, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one address set
    Show {
        /// The set's name
        name: String,
    },
    /// Delete address sets that no rule names
    #[command(visible_alias = "rm")]
    Delete {
        /// The sets' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}
