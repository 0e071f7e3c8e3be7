//! Controller and agent as the command line starts them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use gantry_agent::AgentConfig;
use gantry_cli::{
    Programs,
    args::{AgentRun, ControllerInit, ControllerRun, HostJoin},
    context::Context,
};
use gantry_controller::InitOptions;
use gantry_types::Name;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const CONTROLLER_PORT: u16 = 7443;
const AGENT_PORT: u16 = 7444;

pub struct BuiltIn;

impl Programs for BuiltIn {
    async fn controller_init(&self, arguments: &ControllerInit) -> Result<Context> {
        let options = InitOptions {
            data_dir: arguments.data.clone(),
            datacenter: arguments.name.clone(),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, CONTROLLER_PORT)),
            addresses: arguments.addresses.clone(),
            dns_names: Vec::new(),
        };
        let made = gantry_controller::init(&options).await?;
        let address = arguments.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let url = format!("https://{}", SocketAddr::new(address, CONTROLLER_PORT));
        Ok(Context { url, ca: made.ca_pem, token: made.admin_token })
    }

    async fn controller_run(&self, arguments: ControllerRun) -> Result<()> {
        Ok(gantry_controller::run(&arguments.data, Some(arguments.listen), until_told()?).await?)
    }

    async fn agent_run(&self, arguments: AgentRun) -> Result<()> {
        let config = AgentConfig::load(&arguments.state)?;
        Ok(gantry_agent::run(config, until_told()?).await?)
    }

    async fn host_join(&self, arguments: HostJoin) -> Result<String> {
        let name = match arguments.name {
            Some(name) => name,
            None => own_name()?,
        };
        let agent_address = match arguments.agent_address {
            Some(address) => address,
            None => SocketAddr::new(address_towards(&arguments.url)?, AGENT_PORT),
        };
        let underlay_address = arguments.underlay_address.unwrap_or(agent_address.ip());
        let joined = gantry_agent::join(
            &arguments.url,
            &arguments.token,
            name,
            agent_address,
            underlay_address,
            &arguments.state,
        );
        Ok(joined.await?.name.to_string())
    }

    fn openapi(&self) -> Result<String> {
        gantry_controller::openapi().to_pretty_json().context("the document can't be written as JSON")
    }
}

/// Cancelled by SIGTERM or SIGINT. What runs ends in order; VMs are not touched.
fn until_told() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let told = token.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(token)
}

fn own_name() -> Result<Name> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("this machine's name can't be read")?;
    let short = name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    short.parse().with_context(|| "this machine's name can't be a host's; choose one with --name")
}

/// The local address that packets to the controller leave from. Nothing is sent.
fn address_towards(url: &str) -> Result<IpAddr> {
    let authority = url.trim_start_matches("https://").split('/').next().unwrap_or_default();
    let what = || format!("no local address towards {url} was found; give one with --agent-address");
    let target = if authority.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
        authority.to_owned()
    } else {
        format!("{authority}:{CONTROLLER_PORT}")
    };
    let unspecified = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(unspecified).with_context(what)?;
    socket.connect(&target).with_context(what)?;
    Ok(socket.local_addr().with_context(what)?.ip())
}
