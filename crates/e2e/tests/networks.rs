//! Networks with real guests: equal addresses kept apart, security groups while a client talks, rules removed by hand, a
//! floating address that follows its VM, IPv6 from host to host, a group that changes while a host is away, and guests that are
//! stations of a LAN.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::host_of;
use gantry_e2e::peer::Namespace;
use gantry_e2e::{Lab, Lan, Workload, eventually, http_get};
use gantry_types::{FloatingIp, MigrationPolicy, NicSpec, Vm, VmPhase};

const PATIENCE: Duration = Duration::from_secs(90);
/// A guest that is reached answers in far less.
const ANSWER: Duration = Duration::from_secs(2);

/// Two networks of the same addresses, of which only `red` has a way out.
const NETWORKS: &str = "
kind: network
metadata: {name: red}
spec: {subnet: {cidr: 10.66.0.0/24, gateway: 10.66.0.1}}
---
kind: network
metadata: {name: blue}
spec: {subnet: {cidr: 10.66.0.0/24, gateway: 10.66.0.1}}
---
kind: router
metadata: {name: red}
spec: {networks: [red], external: default}
---
kind: security-group
metadata: {name: closed}
spec: {}
";

async fn make(lab: &Lab, name: &str, network: &str) -> Result<()> {
    let mut vm = lab.guest(name, &Workload::default())?;
    vm.spec.nics = vec![NicSpec { address: Some("10.66.0.10".parse()?), ..NicSpec::new(network.parse()?) }];
    let created = lab.client().create(&vm, &WriteQuery::default()).await?;
    lab.follow(&created).await
}

async fn ready(lab: &Lab, name: &str) -> Result<Vm> {
    eventually(&format!("VM {name} is ready"), PATIENCE, async || {
        let vm: Vm = lab.client().get(name).await?;
        ensure!(vm.status.phase == VmPhase::Running && vm.status.ready, "it is {}", vm.status.phase);
        Ok(vm)
    })
    .await
}

async fn answers(address: IpAddr, who: &str) -> Result<()> {
    eventually(&format!("{who} answers at {address}"), PATIENCE, async || {
        let text = http_get(address, "/cgi-bin/who", ANSWER).context("no answer")?;
        ensure!(text.contains(who), "it is '{text}'");
        Ok(())
    })
    .await
}

async fn is_silent(address: IpAddr) -> Result<()> {
    eventually(&format!("nobody answers at {address}"), PATIENCE, async || {
        ensure!(http_get(address, "/", ANSWER).is_err(), "it answers");
        Ok(())
    })
    .await
}

/// While red-1 is asked, blue-1, which has its address, gets nothing.
async fn no_frame_crosses(lab: &Lab, outside: IpAddr, fixed: IpAddr) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{}.pcap", lab.name()));
    let path = file.to_str().context("the temporary directory's path is not UTF-8")?;
    let line = ["port", "capture", "blue-1", "-w", path, "--time", "3s"];
    let mut captured = std::pin::pin!(lab.gantry(&line));
    let mut asked = 0;
    let ran = loop {
        tokio::select! {
            ran = &mut captured => break ran?,
            answer = tokio::task::spawn_blocking(move || http_get(outside, "/", ANSWER)) => asked += u32::from(answer?.is_ok()),
        }
    };
    ran.ok()?;
    let captured = fs::read(&file)?;
    fs::remove_file(&file)?;
    ensure!(asked > 0, "red-1 was never asked meanwhile");
    let IpAddr::V4(fixed) = fixed else { bail!("red-1 has no IPv4 address") };
    // As the destination of an IPv4 packet without options that carries TCP.
    let mut frames = captured.windows(34);
    let is_stray = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 6 && frame[30..34] == fixed.octets();
    ensure!(!frames.any(is_stray), "blue-1 was sent what is red-1's");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_addresses_are_kept_apart_and_a_floating_address_follows_its_vm_through_its_groups() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    lab.cli().run_with_input(&["apply", "-f", "-"], NETWORKS).await?.ok()?;
    let (red, blue) = tokio::join!(make(&lab, "red-1", "red"), make(&lab, "blue-1", "blue"));
    red?;
    blue?;
    ready(&lab, "blue-1").await?;
    let vm = ready(&lab, "red-1").await?;

    lab.gantry(&["floating-ip", "attach", "red-1"]).await?.ok()?;
    let floating: FloatingIp = lab.client().get("red-1").await?;
    let outside = floating.status.address.context("it has no address")?;
    answers(outside, "red-1").await?;
    no_frame_crosses(&lab, outside, vm.status.nics[0].address).await?;

    // A group without rules closes the port to whoever is not answered; a rule opens it.
    lab.gantry(&["security-group", "attach", "closed", "--vm", "red-1"]).await?.ok()?;
    is_silent(outside).await?;
    let trace = ["port", "trace", "blue-1", "--to", "10.66.0.10:80"];
    ensure!(lab.gantry(&trace).await?.ok()?.contains("VM 'blue-1'"), "blue reaches blue");
    lab.gantry(&["security-group", "allow", "closed", "--tcp", "80"]).await?.ok()?;
    answers(outside, "red-1").await?;

    // Rules that somebody flushes come back, and with them what they forbid.
    lab.gantry(&["security-group", "revoke", "closed", "--tcp", "80"]).await?.ok()?;
    is_silent(outside).await?;
    let host = format!("host-{}", host_of(&vm)?);
    lab.gantry(&["lab", "exec", &host, "--", "nft", "flush", "ruleset"]).await?.ok()?;
    eventually("the rules come back", PATIENCE, async || {
        let listing = lab.gantry(&["lab", "exec", &host, "--", "nft", "list", "table", "inet", "gantry"]).await?;
        ensure!(listing.ok()?.contains("allowed by none of: closed"), "they are not all there");
        Ok(())
    })
    .await?;
    is_silent(outside).await?;

    // Group and address go with the VM.
    lab.gantry(&["security-group", "allow", "closed", "--tcp", "80"]).await?.ok()?;
    let to = 3 - host_of(&vm)?;
    lab.follow(&lab.migrate("red-1", to, MigrationPolicy::default()).await?).await?;
    ensure!(host_of(&lab.client().get::<Vm>("red-1").await?)? == to);
    answers(outside, "red-1").await?;
    lab.gantry(&["security-group", "revoke", "closed", "--tcp", "80"]).await?.ok()?;
    is_silent(outside).await?;
    lab.passed();
    Ok(())
}

/// A network of both families and a group for the one that is asked.
const BOTH_FAMILIES: &str = "
kind: subnet
metadata: {name: six}
spec: {network: default, cidr: fd00:66::/64}
---
kind: security-group
metadata: {name: web}
spec: {rules: [{protocol: tcp, ports: 80}]}
";

/// The guest asks the other one by IPv6, again and again.
fn asking(other: IpAddr) -> String {
    format!(
        "#!/bin/sh\nmkdir -p /tmp/found\nln -s /tmp/found /www/found\nwhile :; do\n\
         printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {other} 80 > /tmp/six && cp /tmp/six /tmp/found/six\n\
         ping6 -c 1 -W 1 {other} > /tmp/ping; mv /tmp/ping /tmp/found/ping\nusleep 200000\ndone &\n"
    )
}

async fn both(lab: &Lab, name: &str, host: u8, groups: &[&str], script: Option<String>) -> Result<Vm> {
    let mut vm = lab.guest(name, &Workload::default())?;
    vm.spec.host = Some(format!("host-{host}").parse()?);
    if let Some(script) = script {
        vm.spec.user_data = Some(script);
    }
    vm.spec.nics = vec![NicSpec {
        security_groups: groups.iter().map(|group| group.parse()).collect::<Result<_, _>>()?,
        ..NicSpec::new("default".parse()?)
    }];
    let created = lab.client().create(&vm, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    ready(lab, name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_reach_each_other_by_ipv6_and_a_group_that_changed_holds_on_a_host_that_was_away() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    lab.cli().run_with_input(&["apply", "-f", "-"], BOTH_FAMILIES).await?.ok()?;
    let server = both(&lab, "server", 2, &["web"], None).await?;
    let six = server.status.nics[0].more_addresses.iter().copied().find(IpAddr::is_ipv6);
    let asker = both(&lab, "asker", 1, &[], Some(asking(six.context("the server has no IPv6 address")?))).await?;
    let asks = asker.status.nics[0].address;
    // TCP over IPv6, through the group; the echo that no rule allows is not answered.
    eventually("the asker is answered by IPv6", PATIENCE, async || {
        let answer = http_get(asks, "/found/six", ANSWER)?;
        ensure!(answer.contains("host=server"), "it is '{answer}'");
        Ok(())
    })
    .await?;
    eventually("pings are lost", PATIENCE, async || {
        let pings = http_get(asks, "/found/ping", ANSWER)?;
        ensure!(pings.contains("100% packet loss"), "the group lets pings in: {pings}");
        Ok(())
    })
    .await?;

    // While its host is cut off the group changes; it holds when the host is back.
    lab.cable("cut", 2).await?;
    lab.gantry(&["security-group", "revoke", "web", "--tcp", "80"]).await?.ok()?;
    lab.gantry(&["security-group", "allow", "web", "--icmp"]).await?.ok()?;
    lab.cable("mend", 2).await?;
    lab.all_hosts_ready().await?;
    eventually("the changed group holds", PATIENCE, async || {
        let pings = http_get(asks, "/found/ping", ANSWER)?;
        ensure!(pings.contains(" 0% packet loss"), "{pings}");
        Ok(())
    })
    .await?;
    ensure!(http_get(server.status.nics[0].address, "/", ANSWER).is_err(), "what was revoked is let in");
    lab.passed();
    Ok(())
}

/// What the station in the LAN is answered.
async fn answer_in(lan: &Namespace, address: IpAddr) -> Result<String> {
    let asked = lan.enter(move || http_get(address, "/cgi-bin/who", ANSWER))?;
    let answered = tokio::task::spawn_blocking(move || asked.join().ok().context("the client panicked")).await??;
    Ok(answered?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_bridged_network_is_a_station_of_the_lan_also_after_its_move() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let lan = Lan::of(&lab).await?;
    lan.network(&lab).await?;
    let line = ["vm", "create", "station", "--image", "guest", "--memory", "128MiB", "--network", "office"];
    lab.gantry(&line).await?.ok()?;
    let vm = ready(&lab, "station").await?;
    let address = vm.status.nics[0].address;
    let answers = async || {
        let answer = answer_in(lan.namespace(), address).await.context("no answer")?;
        ensure!(answer.contains("host=station"), "it is '{answer}'");
        Ok(())
    };
    eventually("the LAN is answered", PATIENCE, answers).await?;
    let to = 3 - host_of(&vm)?;
    lab.follow(&lab.migrate("station", to, MigrationPolicy::default()).await?).await?;
    eventually("the LAN is answered after the move", PATIENCE, answers).await?;
    lab.gantry(&["vm", "delete", "station"]).await?.ok()?;
    lab.gantry(&["network", "delete", "office"]).await?.ok()?;
    lab.passed();
    Ok(())
}
