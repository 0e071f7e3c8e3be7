//! Debian's Pacemaker and corosync with the product's guest as their resource, and the power loss of the node that runs it.
//!
//! ```text
//!   client  10.251.0.254  (bridge) ──┬── n1  10.251.0.1  (bridge, tap)  corosync, pacemakerd, QEMU or not
//!                                    ├── n2  10.251.0.2
//!                                    └── n3  10.251.0.3
//! ```
//! A node is a network, process, mount and UTS namespace without systemd; the disk is in a directory that all see. Its power
//! is lost as a lab's host loses it: the cable first, then all of its processes at once. Nodes, files and namespaces are
//! gone when the cluster is dropped.

mod config;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::machine::TAP;
use super::start::{first_answer, passable};
use super::{Like, Namespace, PeerMachine};
use crate::{eventually, qemus, started_at};

const NODES: [u8; 3] = [1, 2, 3];
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 251, 0, 254));
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 251, 0, 10));
/// A cluster waits for its nodes before it starts anything, and then a guest boots.
const LIMIT: Duration = Duration::from_secs(180);
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    Defaults,
    Quick,
}

/// From power loss to the first answer.
#[derive(Debug, Clone, Copy)]
pub struct FailOver {
    pub detection: Duration,
    pub proof: Duration,
    /// From the proof to the start of QEMU.
    pub placement: Duration,
    pub boot: Duration,
}

impl FailOver {
    pub fn total(&self) -> Duration {
        self.detection + self.proof + self.placement + self.boot
    }
}

struct Node {
    namespace: Namespace,
    process: Child,
}

struct Cluster {
    nodes: Vec<Node>,
    client: Namespace,
    scratch: tempfile::TempDir,
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 251, 0, number)
}

fn power_file(directory: &Path, number: u8) -> PathBuf {
    directory.join(format!("power-{number}"))
}

/// Starts a cluster with the guest on it, takes the power of the guest's node, and waits until it answers again.
pub async fn fail_over(like: &Like, tuning: Tuning) -> Result<FailOver> {
    // Another one than that which it is like, and which may run.
    let uuid = Uuid::new_v4();
    let like = Like { address: GUEST, uuid: uuid.to_string(), ..like.clone() };
    let mut cluster = Cluster::start(&like, tuning).await?;
    let answered = cluster.client.enter(|| first_answer(GUEST))?;
    tokio::task::spawn_blocking(move || answered.join()).await?.ok().context("the client panicked")??;
    cluster.settled().await?;
    let sights = qemus(uuid);
    ensure!(sights.len() == 1, "the guest is in {sights:?}");
    let number = cluster.number_of(sights[0].namespace)?;

    let (lost_at, lost) = (SystemTime::now(), Instant::now());
    cluster.lose(number)?;
    let answered = cluster.client.enter(|| first_answer(GUEST))?;
    let answered =
        tokio::task::spawn_blocking(move || answered.join()).await?.ok().context("the client panicked")??;
    let total = answered - lost;
    let sights = qemus(uuid);
    ensure!(sights.len() == 1, "the guest is in {sights:?}");
    let detection = cluster.noticed(number, lost_at)?;
    let switched = fs::metadata(power_file(cluster.scratch.path(), number))?.modified()?;
    let proof = switched.duration_since(lost_at).context("its power was not switched")?;
    let started = started_at(sights[0].pid)?.duration_since(lost_at).context("its QEMU is the one from before")?;
    Ok(FailOver {
        detection,
        proof: proof.saturating_sub(detection),
        placement: started.saturating_sub(proof.max(detection)),
        boot: total.saturating_sub(started),
    })
}

impl Cluster {
    async fn start(like: &Like, tuning: Tuning) -> Result<Self> {
        let scratch = tempfile::tempdir().context("no scratch directory")?;
        passable(scratch.path())?;
        let directory = scratch.path();
        let client = Namespace::create()?;
        bridge(&client, CLIENT)?;
        let namespaces = NODES.iter().map(|number| wire(&client, *number)).collect::<Result<Vec<_>>>()?;
        client.ask_neighbours_often("br0")?;

        let prepared = PeerMachine::prepare(like, &directory.join("guest"), &namespaces[0], false).await?;
        namespaces[0].ip(&["link", "set", TAP, "master", "br0"])?;
        for namespace in &namespaces[1..] {
            namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
            namespace.ip(&["link", "set", TAP, "master", "br0", "up"])?;
        }
        let guest = directory.join("guest.sh");
        fs::write(&guest, prepared.script()?)?;
        let node = directory.join("node.sh");
        fs::write(&node, include_str!("node.sh"))?;
        for program in [&guest, &node] {
            fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(directory.join("corosync.conf"), config::corosync(tuning))?;
        fs::write(directory.join("cib.xml"), config::cib(directory, &guest, tuning))?;
        let mut cluster = Self { nodes: Vec::new(), client, scratch };
        for (number, namespace) in NODES.into_iter().zip(namespaces) {
            fs::write(power_file(cluster.scratch.path(), number), "on")?;
            let process = switch_on(&namespace, cluster.scratch.path(), number)?;
            cluster.nodes.push(Node { namespace, process });
        }
        Ok(cluster)
    }

    /// Waits until all nodes are there and each one's power has somebody who switches it.
    async fn settled(&self) -> Result<()> {
        let inside = self.nodes[0].first_process()?;
        eventually("the peer's cluster is complete", LIMIT, async || {
            let pid = inside.to_string();
            let told = Command::new("nsenter").args(["-t", &pid, "-n", "-m", "-p", "-u", "crm_mon", "-1"]).output()?;
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let switches = told.lines().filter(|line| line.contains("fence_dummy") && line.contains("Started"));
            ensure!(told.contains("Online: [ n1 n2 n3 ]") && switches.count() == NODES.len(), "{told}");
            Ok(())
        })
        .await
    }

    fn number_of(&self, namespace: u64) -> Result<u8> {
        let is_it = |node: &Node| {
            fs::metadata(format!("/run/netns/{}", node.namespace.name())).is_ok_and(|found| found.ino() == namespace)
        };
        let found = NODES.into_iter().zip(&self.nodes).find(|(_, node)| is_it(node));
        found.map(|(number, _)| number).context("the guest is on no node")
    }

    fn lose(&mut self, number: u8) -> Result<()> {
        self.client.ip(&["link", "set", &port(number), "down"])?;
        self.nodes[usize::from(number) - 1].process.kill().context("cannot take a node's power")
    }

    /// How long after its power loss the first of the others called it lost, by their logs.
    fn noticed(&self, number: u8, lost_at: SystemTime) -> Result<Duration> {
        let line = format!("Node n{number} state is now lost");
        let since_epoch = lost_at.duration_since(SystemTime::UNIX_EPOCH)?;
        let lost_ms = i64::try_from(since_epoch.as_millis())? % DAY_MS;
        let others = NODES.into_iter().filter(|other| *other != number);
        let logs = others
            .filter_map(|other| fs::read_to_string(self.scratch.path().join(format!("pacemaker-{other}.log"))).ok());
        let moments: Vec<i64> = logs
            .flat_map(|log| log.lines().filter(|seen| seen.contains(&line)).filter_map(moment_ms).collect::<Vec<_>>())
            .collect();
        let after = moments.into_iter().map(|moment| (moment - lost_ms).rem_euclid(DAY_MS)).min();
        let after = after.context("no node has noticed it")?;
        Ok(Duration::from_millis(after.unsigned_abs()))
    }
}

/// Of a log's line: milliseconds of its day. `Nov 29 20:15:27.265 n3 …`
fn moment_ms(line: &str) -> Option<i64> {
    let (time, ms) = line.split_ascii_whitespace().nth(2)?.split_once('.')?;
    let mut parts = time.split(':').map(str::parse::<i64>);
    let (h, m, s) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(((h * 60 + m) * 60 + s) * 1000 + ms.parse::<i64>().ok()?)
}

impl Node {
    /// The first of its processes, as seen from outside.
    fn first_process(&self) -> Result<u32> {
        let parent = self.process.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        children.split_ascii_whitespace().next().context("a node has not started")?.parse().context("no number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its first process ends with it, and all others with that one.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn port(number: u8) -> String {
    format!("p{number}")
}

fn bridge(place: &Namespace, address: IpAddr) -> Result<()> {
    place.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
    place.ip(&["address", "add", &format!("{address}/24"), "dev", "br0"])?;
    place.ip(&["link", "set", "br0", "up"])
}

fn wire(client: &Namespace, number: u8) -> Result<Namespace> {
    let node = Namespace::create()?;
    bridge(&node, address(number).into())?;
    let port = port(number);
    client.ip(&["link", "add", &port, "type", "veth", "peer", "name", "up0", "netns", node.name()])?;
    client.ip(&["link", "set", &port, "master", "br0", "up"])?;
    node.ip(&["link", "set", "up0", "master", "br0", "up"])?;
    Ok(node)
}

fn switch_on(namespace: &Namespace, directory: &Path, number: u8) -> Result<Child> {
    let log = fs::File::create(directory.join(format!("node-{number}.log")))?;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child", "/bin/sh"]);
    command.arg(directory.join("node.sh")).arg(directory).arg(number.to_string());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let spawned = namespace.enter(move || command.spawn())?.join().ok().context("a thread panicked")?;
    spawned.context("cannot start a node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_logs_are_milliseconds_of_their_day() {
        let line = "Nov 29 01:02:03.045 n3 pacemaker-controld  [38] notice: Node n1 state is now lost";
        assert_eq!(moment_ms(line), Some(3_723_045));
        assert_eq!(moment_ms("no time in here"), None);
    }
}
