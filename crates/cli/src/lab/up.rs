//! `gantry lab up`: from nothing, or from whatever is left of a lab, to all hosts ready.
//!
//! ```text
//!  reserve ─▶ namespaces, cables ─▶ controller made ─▶ controller answers ─▶ context saved
//!                                                                               │
//!       sample ◀─ network default ◀─ every host ready ◀─ each host joined, its agent started
//! ```
//! Each step first looks whether it was done, so giving the command again goes on where an earlier one ended: after an
//! error, after programs died, after the machine was rebooted. Nothing is undone on failure; `lab down` removes it all.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use gantry_api::rest::{CreateToken, WriteQuery};
use gantry_lab::{LabRecord, Layout, Room, list, reserve};
use gantry_types::{
    ApiToken, ErrorClass, Host, HostPower, HostState, Name, Network, NetworkSpec, PowerDriverKind, Problem, Resource,
    Role, Subnet, Timestamp,
};
use tokio::time::{Instant, sleep};

use super::{context_name, sample, web};
use crate::{
    args::LabUp,
    client::Client,
    context::Contexts,
    exit::Failure,
    output::{now, print},
    progress::{Indicator, Stage},
};

const DEFAULT_HOSTS: u8 = 3;
/// A controller with a large store reads it before it answers.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(60);
/// An agent tries once whether KVM boots a guest, which takes long where it does not.
const HOSTS_LIMIT: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(150);
const LOG_LINES: usize = 12;
const NETWORK: &str = "default";

/// Programs a lab cannot do without.
const PREREQUISITES: [&str; 5] = ["ip", "bridge", "nft", "qemu-system-x86_64", "qemu-img"];

pub async fn up(arguments: &LabUp) -> Result<(), Failure> {
    check_prerequisites()?;
    if let Some(file) = &arguments.sample {
        sample::check_file(file)?;
    }
    let began = now();
    let mut indicator = Indicator::new(format!("lab '{}'", arguments.name));
    let record = reserve_lab(arguments)?;
    let room = Room::new(record);
    say(&mut indicator, "building namespaces and cables");
    room.build()?;
    say(&mut indicator, "starting the controller");
    let context = context_name(&room);
    room.init_controller(&context)?;
    room.start_power_strip()?;
    room.start_controller()?;
    let administrator = Contexts::load_from(&room.administrator_file())?;
    let client = administrator.client(Some(&context))?;
    until_controller_answers(&room, &client).await?;
    use_context(&administrator, &context)?;
    web::prepare(&room, &client, administrator.choose(Some(&context))?.1).await?;
    let sleeping = sleeping(&client).await?;
    for host in room.hosts() {
        say(&mut indicator, &format!("joining {}", Layout::host_name(host)));
        join(&room, &client, host).await?;
        if !sleeping.contains(&Layout::host_name(host)) {
            room.start_agent(host)?;
        }
    }
    until_hosts_are_ready(&room, &client, began, &sleeping, &mut indicator).await?;
    ensure_network(&room, &client).await?;
    indicator.clear();
    print(&summary(&room, &context))?;
    if let Some(file) = &arguments.sample {
        sample::run(&client, file, room.record().hosts).await?;
    } else {
        print(
            "try:  gantry host list\n      gantry image import guest IMAGE_FILE\n      \
               gantry vm create hello --image guest --network default --wait ready\n",
        )?;
    }
    Ok(())
}

fn say(indicator: &mut Indicator, message: &str) {
    indicator.update(&Stage { step: message.to_owned(), ..Stage::default() });
}

fn check_prerequisites() -> Result<(), Problem> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::denied("not-root", "a lab makes network namespaces, and that needs root")
            .remedy("run it as root, or with sudo"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let missing: Vec<_> = PREREQUISITES.into_iter().filter(|name| !is_found(&directories, name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Problem::invalid("missing-programs", format!("a lab needs programs that are not here: {}", missing.join(", ")))
        .remedy("apt-get install iproute2 nftables qemu-system-x86 qemu-utils"))
}

fn is_found(directories: &[PathBuf], program: &str) -> bool {
    directories.iter().any(|directory| directory.join(program).is_file())
}

/// The lab's record; an existing lab keeps its size unless another one is asked for.
fn reserve_lab(arguments: &LabUp) -> anyhow::Result<LabRecord> {
    let existing = list()?.into_iter().find(|lab| lab.name == arguments.name);
    let hosts = arguments.hosts.or(existing.map(|lab| lab.hosts)).unwrap_or(DEFAULT_HOSTS);
    reserve(&arguments.name, hosts, arguments.keep)
}

async fn until_controller_answers(room: &Room, client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONTROLLER_LIMIT;
    loop {
        let problem = match client.version().await {
            Ok(_) => return Ok(()),
            Err(problem) => problem,
        };
        let log = room.log("controller");
        if !problem.is_transient() || Instant::now() > deadline {
            bail!("the controller does not answer: {problem}{}", tail_of(&log));
        }
        if room.look().controller_pid.is_none() && has_ended(room).await {
            bail!("the controller ended{}", tail_of(&log));
        }
        sleep(POLL).await;
    }
}

/// A process that was just started is not yet the controller for a moment: only one that stays away has ended.
async fn has_ended(room: &Room) -> bool {
    for _ in 0..10 {
        sleep(POLL).await;
        if room.look().controller_pid.is_some() {
            return false;
        }
    }
    true
}

fn tail_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    format!("; the end of {}:\n  {tail}", log.display())
}

/// The lab becomes what this user's commands talk to.
fn use_context(administrator: &Contexts, name: &str) -> Result<(), Problem> {
    let (_, context) = administrator.choose(Some(name))?;
    let mut contexts = Contexts::load()?;
    contexts.contexts.insert(name.to_owned(), context.clone());
    contexts.current = Some(name.to_owned());
    contexts.save()
}

async fn join(room: &Room, client: &Client, host: u8) -> Result<(), Failure> {
    // The agent's configuration is the last thing that joining writes.
    if room.host_directory(host).join("agent.toml").exists() {
        return Ok(());
    }
    let token: Name = format!("join-{}", Layout::host_name(host)).parse().map_err(anyhow::Error::new)?;
    // One that an interrupted attempt left is of no use: its secret is lost.
    remove_if_there::<ApiToken>(client, token.as_str()).await?;
    let request = CreateToken { name: token.clone(), role: Role::Join, expires_at: None };
    let created = client.create_token(&request).await?;
    room.join(host, &created.token)?;
    remove_if_there::<ApiToken>(client, token.as_str()).await?;
    client
        .change::<Host>(&Layout::host_name(host), |joined| {
            joined.spec.power = Some(HostPower { driver: PowerDriverKind::Lab, outlet: None });
            Ok(())
        })
        .await?;
    Ok(())
}

/// Hosts that are off on purpose: the controller wakes them when it needs them.
async fn sleeping(client: &Client) -> Result<Vec<String>, Problem> {
    let hosts = client.list::<Host>(None).await?;
    let asleep = |host: &&Host| matches!(host.status.state, HostState::Sleeping | HostState::Waking);
    Ok(hosts.iter().filter(asleep).map(|host| host.name().to_owned()).collect())
}

async fn remove_if_there<T: Resource>(client: &Client, name: &str) -> Result<(), Problem> {
    match client.delete::<T>(name, &WriteQuery::default()).await {
        Err(problem) if problem.class != ErrorClass::NotFound => Err(problem),
        _ => Ok(()),
    }
}

/// Ready and heard of since `began`: what the controller remembers of a lab's former life does not count.
async fn until_hosts_are_ready(
    room: &Room,
    client: &Client,
    began: Timestamp,
    sleeping: &[String],
    indicator: &mut Indicator,
) -> Result<(), Failure> {
    let deadline = Instant::now() + HOSTS_LIMIT;
    loop {
        let hosts = client.list::<Host>(None).await?;
        let is_ready = |name: &str| {
            sleeping.iter().any(|host| host == name)
                || hosts.iter().any(|host| {
                    let heard = host.status.last_seen.is_some_and(|seen| seen >= began);
                    host.name() == name && heard && host.status.state == HostState::Ready
                })
        };
        let missing: Vec<_> = room.hosts().filter(|host| !is_ready(&Layout::host_name(*host))).collect();
        let Some(first) = missing.first() else { return Ok(()) };
        let names: Vec<_> = missing.iter().map(|host| Layout::host_name(*host)).collect();
        say(indicator, &format!("waiting for {}", names.join(", ")));
        if Instant::now() > deadline {
            let log = tail_of(&room.log(&Layout::host_name(*first)));
            return Err(anyhow::anyhow!("{} did not become ready{log}", names.join(", ")).into());
        }
        sleep(POLL).await;
    }
}

/// The network that the operator's own VXLAN device is an outside client of.
async fn ensure_network(room: &Room, client: &Client) -> Result<(), Failure> {
    match client.get::<Network>(NETWORK).await {
        Ok(_) => return Ok(()),
        Err(problem) if problem.class == ErrorClass::NotFound => {}
        Err(problem) => return Err(problem.into()),
    }
    let layout = room.layout();
    let cidr = layout.default_subnet().parse().context("the lab's own subnet")?;
    let subnet = Subnet { reserved: vec![layout.operator_inner_address().into()], ..Subnet::new(cidr) };
    let external_vteps = vec![layout.operator_address().into()];
    let spec = NetworkSpec { vni: Some(layout.default_vni()), external_vteps, ..NetworkSpec::with_subnet(subnet) };
    let name = NETWORK.parse().map_err(anyhow::Error::new)?;
    client.create(&Network::new(name, spec), &WriteQuery::default()).await?;
    Ok(())
}

fn summary(room: &Room, context: &str) -> String {
    let (record, layout) = (room.record(), room.layout());
    format!(
        "lab '{}' is up: controller {}, host-1 to host-{}; context '{context}' is current\n\
         network 'default' {}: this machine is {} in it\n\
         {}state and logs: {}\n",
        record.name,
        layout.controller_url(),
        record.hosts,
        layout.default_subnet(),
        layout.operator_inner_address(),
        web::how_to_log_in(room),
        record.directory.display(),
    )
}
