//! `gantry network …`

use gantry_api::rest::WriteQuery;
use gantry_types::{Network, NetworkSpec, Problem, Subnet};

use super::{Session, announce, apply, objects};
use crate::{
    args::{FollowOptions, NetworkCommand, NetworkCreate},
    exit::Failure,
    kind::Kind,
};

pub async fn run(session: &Session, command: NetworkCommand) -> Result<(), Failure> {
    match command {
        NetworkCommand::Create(arguments) => {
            let network = network_of(arguments)?;
            let changed = session.client()?.create(&network, &WriteQuery::default()).await?;
            Ok(announce(session.printer, &changed.object, "created")?)
        }
        NetworkCommand::List(options) => objects::list::<Network>(session, &options, |_| true).await,
        NetworkCommand::Show { name } => objects::show_all::<Network>(session, &name).await,
        NetworkCommand::Delete { names } => {
            apply::delete_named(session, Kind::Network, &names, FollowOptions::default()).await
        }
    }
}

fn network_of(arguments: NetworkCreate) -> Result<Network, Problem> {
    let cidr = arguments.subnet.parse().map_err(|error| {
        Problem::invalid("invalid-network", format!("'{}' is not a subnet: {error}", arguments.subnet))
            .remedy("write it as 10.9.0.0/24")
    })?;
    let subnet = Subnet { cidr, gateway: arguments.gateway, dns: arguments.dns, reserved: arguments.reserve };
    let spec = NetworkSpec { vni: arguments.vni, mtu: arguments.mtu, subnet, external_vteps: arguments.external_vtep };
    Ok(Network::new(arguments.name, spec))
}
