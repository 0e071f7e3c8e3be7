//! `gantry network …`

use gantry_api::rest::WriteQuery;
use gantry_types::{Host, Network, NetworkSpec, Problem, Subnet, Vm};

use super::{Session, announce, apply, objects};
use crate::{
    args::{FollowOptions, NetworkCommand, NetworkCreate},
    exit::Failure,
    kind::Kind,
    output::{Table, print},
};

pub async fn run(session: &Session, command: NetworkCommand) -> Result<(), Failure> {
    match command {
        NetworkCommand::Create(arguments) => {
            let network = network_of(arguments)?;
            let changed = session.client()?.create(&network, &WriteQuery::default()).await?;
            Ok(announce(session.printer, &changed.object, "created")?)
        }
        NetworkCommand::List(options) => objects::list::<Network>(session, &options, |_| true).await,
        NetworkCommand::Show { name } => show(session, &name).await,
        NetworkCommand::Delete { names } => {
            apply::delete_named(session, Kind::Network, &names, FollowOptions::default()).await
        }
    }
}

/// The network, and for people also who is where in it.
async fn show(session: &Session, name: &str) -> Result<(), Failure> {
    objects::show_all::<Network>(session, name).await?;
    if session.printer.is_structured() {
        return Ok(());
    }
    let client = session.client()?;
    let network: Network = client.get(name).await?;
    let (vms, hosts) = (client.list::<Vm>(None).await?, client.list::<Host>(None).await?);
    let mut table = Table::new(&["ADDRESS", "MAC", "HOLDER", "HOST", "VTEP"]);
    for (address, lease) in &network.status.leases {
        let vm = lease.vm.as_ref().and_then(|name| vms.iter().find(|vm| vm.metadata.name == *name));
        let host = vm.and_then(|vm| vm.status.host.as_ref());
        let at = host.and_then(|name| hosts.iter().find(|host| host.metadata.name == *name));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            address.to_string(),
            lease.mac.to_string(),
            lease.described(),
            or_dash(host.map(ToString::to_string)),
            or_dash(at.map(|host| host.status.underlay_address.clone())),
        ]);
    }
    Ok(print(&format!("\nWho is where:\n{}", table.render(None)))?)
}

fn network_of(arguments: NetworkCreate) -> Result<Network, Problem> {
    let cidr = arguments.subnet.parse().map_err(|error| {
        Problem::invalid("invalid-network", format!("'{}' is not a subnet: {error}", arguments.subnet))
            .remedy("write it as 10.9.0.0/24")
    })?;
    let subnet =
        Subnet { gateway: arguments.gateway, dns: arguments.dns, reserved: arguments.reserve, ..Subnet::new(cidr) };
    let spec = NetworkSpec {
        vni: arguments.vni,
        network_type: arguments.network_type,
        interface: arguments.interface,
        mtu: arguments.mtu,
        external_vteps: arguments.external_vtep,
        ..NetworkSpec::with_subnet(subnet)
    };
    Ok(Network::new(arguments.name, spec))
}
