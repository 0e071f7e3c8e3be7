//! What a person types on the first day, with the real binary: outputs and exit codes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{address, host_of};
use gantry_e2e::{Lab, eventually, guest_image, http_get};
use gantry_types::{Host, HostState, Operation, Vm, VmPhase};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_first_day_work_as_typed() -> Result<()> {
    let lab = Lab::up(3).await?;
    let image = guest_image()?;
    let image = image.to_str().context("the guest image's path is not UTF-8")?;

    let hosts = lab.gantry(&["host", "list"]).await?.ok()?;
    for host in ["host-1", "host-2", "host-3"] {
        ensure!(hosts.contains(host), "`host list` does not show {host}:\n{hosts}");
    }
    ensure!(!hosts.contains('\u{1b}'), "escape sequences in a pipe: {hosts:?}");

    lab.gantry(&["image", "import", "tiny", image]).await?.ok()?;
    let create = ["vm", "create", "web", "--image", "tiny", "--cpus", "1", "--memory", "256MiB"];
    let create = create.into_iter().chain(["--network", "default", "--wait", "ready"]);
    lab.gantry(&create.collect::<Vec<_>>()).await?.ok()?;
    let web: Vm = lab.client().get("web").await?;
    ensure!(web.status.ready && web.status.phase == VmPhase::Running, "it is {:?}", web.status);
    ensure!(http_get(address(&web)?, "/", Duration::from_secs(5))?.starts_with("ok"));

    let list: Value = lab.gantry(&["vm", "list", "-o", "json"]).await?.json()?;
    ensure!(list.to_string().contains("\"web\""), "{list}");

    let typed = "echo sum-$((40 + 2))\nhostname\n";
    let console = lab.cli().run_with_input(&["vm", "console", "web"], typed).await?.ok()?;
    ensure!(console.contains("sum-42") && console.contains("web"), "the console said {console:?}");

    // Wherever it was placed, first somewhere else, so that the typed command really moves it.
    if host_of(&web)? == 2 {
        lab.gantry(&["vm", "migrate", "web", "--to", "host-1"]).await?.ok()?;
    }
    let moved = lab.gantry(&["vm", "migrate", "web", "--to", "host-2"]).await?.ok()?;
    ensure!(moved.contains("downtime"), "no figures: {moved}");
    let web = lab.runs_in_one_place("web").await?;
    ensure!(host_of(&web)? == 2);
    http_get(address(&web)?, "/", Duration::from_secs(5)).context("unreachable after the move")?;

    let yaml = lab.gantry(&["get", "vm", "web", "-o", "yaml"]).await?.ok()?;
    let applied = lab.cli().run_with_input(&["apply", "-f", "-"], &yaml).await?.ok()?;
    ensure!(applied.contains("unchanged"), "applying what is there changed it: {applied}");

    let operations = lab.gantry(&["operation", "list"]).await?.ok()?;
    ensure!(operations.contains("vm-migrate") && operations.contains("image-import"), "{operations}");
    let events = lab.gantry(&["event", "list"]).await?.ok()?;
    ensure!(events.contains("vm/web"), "{events}");
    lab.gantry(&["describe", "vm", "web"]).await?.ok()?;

    lab.cable("unplug", 3).await?;
    eventually("host-3 is shown as lost", Duration::from_secs(15), async || {
        let hosts = lab.gantry(&["host", "list"]).await?.ok()?;
        let line = hosts.lines().find(|line| line.contains("host-3")).context("no host-3")?;
        ensure!(line.contains("lost"), "{line}");
        Ok(())
    })
    .await?;
    lab.cable("plug", 3).await?;
    lab.all_hosts_ready().await?;

    stop_and_start(&lab).await?;

    lab.gantry(&["vm", "delete", "web"]).await?.ok()?;
    lab.gantry(&["vm", "show", "web"]).await?.expect_code(3)?;
    let finished: Vec<Operation> = lab.client().list(None).await?;
    ensure!(finished.iter().all(|operation| operation.status.phase.is_finished()));
    lab.passed();
    Ok(())
}

/// virsh's verbs, on a VM that runs.
async fn stop_and_start(lab: &Lab) -> Result<()> {
    let phase = async |expected: VmPhase| {
        let vm: Vm = lab.client().get("web").await?;
        ensure!(vm.status.phase == expected, "it is {}, not {expected}", vm.status.phase);
        Ok(())
    };
    lab.gantry(&["vm", "pause", "web"]).await?.ok()?;
    phase(VmPhase::Paused).await?;
    lab.gantry(&["vm", "resume", "web"]).await?.ok()?;
    phase(VmPhase::Running).await?;
    lab.gantry(&["vm", "stop", "web"]).await?.ok()?;
    phase(VmPhase::Stopped).await?;
    lab.gantry(&["vm", "set", "web", "--memory", "192MiB", "--label", "tier=front"]).await?.ok()?;
    lab.gantry(&["vm", "start", "web"]).await?.ok()?;
    let vm = lab.serving("web").await?;
    ensure!(vm.spec.memory.as_mib() == 192, "{:?}", vm.spec);
    let selected = lab.gantry(&["vm", "list", "-l", "tier=front", "-o", "name"]).await?.ok()?;
    ensure!(selected.trim() == "vm/web", "{selected}");
    lab.gantry(&["vm", "reboot", "web"]).await?.ok()?;
    lab.serving("web").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_labs_do_not_collide_and_leave_nothing_behind() -> Result<()> {
    let (first, second) = (Lab::up(2).await?, Lab::up(1).await?);
    for (lab, count) in [(&first, 2), (&second, 1)] {
        let hosts: Vec<Host> = lab.client().list(None).await?;
        ensure!(hosts.len() == count && hosts.iter().all(|host| host.status.state == HostState::Ready));
    }
    let prefixes = [&first, &second].map(|lab| lab.room().layout().namespace_prefix());
    ensure!(prefixes[0] != prefixes[1]);
    let directory = second.room().record().directory.clone();
    second.passed();
    drop(second);
    ensure!(!directory.exists(), "{} is left", directory.display());
    ensure!(namespaces_with(&prefixes[1])?.is_empty(), "namespaces are left: {:?}", namespaces_with(&prefixes[1])?);
    first.all_hosts_ready().await.context("taking one lab down hurt the other")?;
    first.passed();
    drop(first);
    ensure!(namespaces_with(&prefixes[0])?.is_empty());
    Ok(())
}

fn namespaces_with(prefix: &str) -> Result<Vec<String>> {
    let names = std::fs::read_dir("/run/netns")?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name.starts_with(prefix)).collect())
}
