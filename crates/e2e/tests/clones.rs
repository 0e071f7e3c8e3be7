//! A guest that writes is cloned while it runs: the clone has what was on the disk at one instant, and both run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::address;
use gantry_e2e::{Lab, Observer, Workload, disk, http_get};
use gantry_types::{Operation, OperationPhase, Vm};

const VM: &str = "web";

/// What the guest says of itself.
fn said(vm: &Vm, what: &str) -> Result<String> {
    let text = http_get(address(vm)?, "/cgi-bin/who", Duration::from_secs(5)).context("no HTTP answer")?;
    let found = text.split_whitespace().find_map(|word| word.strip_prefix(&format!("{what}=")));
    found.map(str::to_owned).with_context(|| format!("no {what} in {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_is_cloned_as_of_one_instant_and_both_run() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(observer.address()), ..Workload::default() };
    let source = lab.run_vm(VM, Some(1), &workload).await?;
    observer.goes_on(50).await?;
    let acknowledged = observer.last();
    lab.gantry(&["snapshot", "create", VM, "its-own"]).await?.ok()?;
    let kept = observer.last();
    observer.goes_on(50).await?;
    lab.gantry(&["vm", "clone", VM, "then", "--snapshot", "its-own", "--stopped", "--host", "host-2"]).await?.ok()?;
    let then: Vm = lab.client().get("then").await?;
    let held = disk::check(&lab.disk(2, then.metadata.uuid), acknowledged)?;
    ensure!(held.last <= kept + 1, "the clone of the snapshot has {} and it was taken at {kept}", held.last);
    observer.goes_on(50).await?;

    let before = observer.last();
    lab.gantry(&["vm", "clone", VM, "copy", "--stopped", "--host", "host-2"]).await?.ok()?;
    let after = observer.last();
    let copy: Vm = lab.client().get("copy").await?;
    let copied = disk::check(&lab.disk(2, copy.metadata.uuid), before)?;
    ensure!(copied.last <= after + 1, "the copy has {} and the guest was at {after}", copied.last);
    observer.goes_on(50).await?;

    // Both ends of the work die: it is carried through, or nothing is left; the source goes on either way.
    lab.gantry(&["vm", "clone", VM, "again", "--stopped", "--host", "host-2", "--no-wait"]).await?.ok()?;
    lab.crash_agent(1)?;
    lab.crash_controller()?;
    lab.resume().await?;
    let operations: Vec<Operation> = lab.client().list(None).await?;
    let cloning = operations.iter().find(|operation| operation.spec.target.name.as_str() == "again");
    let ended = lab.operation_end(cloning.context("no operation")?.metadata.name.as_str()).await?;
    if ended.status.phase == OperationPhase::Succeeded {
        let again: Vm = lab.client().get("again").await?;
        disk::check(&lab.disk(2, again.metadata.uuid), after)?;
    } else {
        ensure!(lab.client().get::<Vm>("again").await.is_err(), "{ended:?}");
    }
    observer.goes_on(50).await?;

    lab.gantry(&["vm", "clone", VM, "twin", "--wait", "ready"]).await?.ok()?;
    let twin = lab.serving("twin").await?;
    ensure!(address(&twin)? != address(&source)?, "both have {}", address(&twin)?);
    for what in ["host", "iid", "mac"] {
        let (its, of_source) = (said(&twin, what)?, said(&source, what)?);
        ensure!(its != of_source, "both say {what}={its}");
    }
    for name in [VM, "twin"] {
        lab.runs_in_one_place(name).await?;
    }
    lab.gantry(&["vm", "delete", VM, "then", "copy", "twin"]).await?.ok()?;
    lab.passed();
    Ok(())
}
