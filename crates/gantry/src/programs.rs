//! Controller and agent as the command line starts them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail};
use gantry_agent::AgentConfig;
use gantry_cli::{
    MadeController, Programs,
    args::{AgentRun, ControllerInit, ControllerRun, HostJoin},
    context::Context,
};
use gantry_controller::{InitOptions, init::ADMIN_USER, power::BuiltInDrivers};
use gantry_types::Name;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const CONTROLLER_PORT: u16 = 7443;
const AGENT_PORT: u16 = 7444;

pub struct BuiltIn;

impl Programs for BuiltIn {
    async fn controller_init(&self, arguments: &ControllerInit) -> Result<MadeController> {
        let mut addresses = arguments.addresses.clone();
        if addresses.is_empty() && arguments.dns_names.is_empty() {
            addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let url = url_of(&addresses, &arguments.dns_names, arguments.listen.port());
        let options = InitOptions {
            data_dir: arguments.data.clone(),
            datacenter: arguments.name.clone(),
            listen: arguments.listen,
            addresses,
            dns_names: arguments.dns_names.clone(),
        };
        let made = gantry_controller::init(&options).await?;
        Ok(MadeController {
            context: Context { url, ca: made.ca_pem, token: made.admin_token },
            user: ADMIN_USER.to_owned(),
            password: made.admin_password,
        })
    }

    async fn controller_run(&self, arguments: ControllerRun) -> Result<()> {
        let power = BuiltInDrivers { lab_strip: arguments.power_strip };
        Ok(gantry_controller::run(&arguments.data, arguments.listen, power, until_told()?).await?)
    }

    async fn agent_run(&self, arguments: AgentRun) -> Result<()> {
        let config = AgentConfig::load(&arguments.state)?;
        Ok(gantry_agent::run(config, until_told()?).await?)
    }

    fn agent_warden(&self, arguments: &AgentRun) -> Result<()> {
        Ok(gantry_agent::run_warden(&arguments.state)?)
    }

    async fn host_join(&self, arguments: HostJoin) -> Result<String> {
        let token = join_token(&arguments)?;
        let name = match arguments.name {
            Some(name) => name,
            None => own_name()?,
        };
        let agent_address = match arguments.agent_address {
            Some(address) => address,
            None => SocketAddr::new(address_towards(&arguments.url)?, AGENT_PORT),
        };
        let underlay_address = arguments.underlay_address.unwrap_or(agent_address.ip());
        let joined =
            gantry_agent::join(&arguments.url, &token, name, agent_address, underlay_address, &arguments.state);
        Ok(joined.await?.name.to_string())
    }

    fn openapi(&self) -> Result<String> {
        gantry_controller::openapi().to_pretty_json().context("the document can't be written as JSON")
    }
}

/// Where a controller that is known by these is reached.
fn url_of(addresses: &[IpAddr], dns_names: &[String], port: u16) -> String {
    match (addresses.first(), dns_names.first()) {
        (Some(address), _) => format!("https://{}", SocketAddr::new(*address, port)),
        (None, Some(name)) => format!("https://{name}:{port}"),
        (None, None) => format!("https://{}:{port}", Ipv4Addr::LOCALHOST),
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

/// A file that was named wins over the environment.
fn join_token(arguments: &HostJoin) -> Result<String> {
    let text = match (&arguments.token_file, &arguments.token) {
        (Some(path), _) if path.as_os_str() == "-" => {
            std::io::read_to_string(std::io::stdin()).context("the join token can't be read from standard input")?
        }
        (Some(path), _) => std::fs::read_to_string(path)
            .with_context(|| format!("the join token can't be read from {}", path.display()))?,
        (None, Some(token)) => token.clone(),
        (None, None) => bail!("no join token; give --token-file FILE or set GANTRY_JOIN_TOKEN"),
    };
    Ok(text.trim().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_or_else_the_first_name_is_where_the_controller_is_reached() {
        let addresses: Vec<IpAddr> = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse().unwrap()).into();
        let names = ["gantry.example".to_owned()];
        assert_eq!(url_of(&addresses, &names, 8443), "https://[2001:db8::1]:8443");
        assert_eq!(url_of(&addresses[1..], &[], 7443), "https://192.0.2.1:7443");
        assert_eq!(url_of(&[], &names, 8443), "https://gantry.example:8443");
    }
}
