//! Guests that fail while nobody is there to help: their host does what it was told to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{BOOT_LIMIT, SETTLE_LIMIT, address};
use gantry_e2e::{Lab, Observer, Workload, eventually, qemus, workload_figure};
use gantry_types::Vm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TELL_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_vm_is_started_again_while_the_controller_is_away_and_loses_no_write() -> Result<()> {
    let lab = Lab::up(1).await?;
    lab.import_guest().await?;
    let writes = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(writes.address()), ..Workload::default() };
    let vm = lab.run_vm("web", Some(1), &workload).await?;
    let (uuid, address) = (vm.metadata.uuid, address(&vm)?);
    let explained = lab.gantry(&["ha", "explain", "web"]).await?.ok()?;
    ensure!(explained.contains("it stays failed"), "{explained}");

    lab.gantry(&["vm", "set", "web", "--ha", "restart", "--ha-restarts", "3"]).await?.ok()?;
    let state = lab.disk(1, uuid).ancestors().nth(3).context("its disk is in no state directory")?.to_owned();
    let record = state.join(format!("vms/{uuid}/record.json"));
    eventually("its host knows of its protection", TELL_LIMIT, async || {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&record)?)?;
        let ha = &record["assignment"]["ha"];
        ensure!(ha["restarts_per_hour"] == 3, "{ha}");
        Ok(())
    })
    .await?;

    eventually("the guest writes", TELL_LIMIT, async || {
        ensure!(writes.count() > 20, "{} writes", writes.count());
        Ok(())
    })
    .await?;

    lab.crash_controller()?;
    let pid = qemus(uuid).first().context("it has no QEMU")?.pid;
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
    let acknowledged = writes.last();
    eventually("another QEMU runs it", SETTLE_LIMIT, async || {
        let sights = qemus(uuid);
        ensure!(sights.len() == 1 && sights[0].pid != pid, "{sights:?}");
        Ok(())
    })
    .await?;
    // The guest itself looked at its disk while it booted.
    let last = eventually("the guest has checked its disk", BOOT_LIMIT, async || workload_figure(address, "last"));
    let last = last.await?;
    ensure!(last >= acknowledged, "{acknowledged} was acknowledged, the guest found {last}");
    ensure!(workload_figure(address, "bad")? == 0, "the guest found damaged blocks");

    lab.resume().await?;
    lab.all_hosts_ready().await?;
    eventually("the controller knows what was done", SETTLE_LIMIT, async || {
        let vm: Vm = lab.client().get("web").await?;
        ensure!(vm.status.ready && vm.status.ha.restarts == 1, "{:?}", vm.status);
        Ok(())
    })
    .await?;
    lab.runs_in_one_place("web").await?;
    let explained = lab.gantry(&["ha", "explain", "web"]).await?.ok()?;
    ensure!(explained.contains("1 on host-1") && explained.contains("signal: 9"), "{explained}");
    let events = lab.gantry(&["describe", "vm", "web"]).await?.ok()?;
    ensure!(events.contains("VmRestarted"), "{events}");
    lab.passed();
    Ok(())
}
