//! Wall clocks that are set forth and back on a host and at the controller: nothing that decides goes by them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{BOOT_LIMIT, SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, Sentinel, Workload, eventually};
use gantry_types::{Event, Host, HostState, Vm};

const VM: &str = "web";
const STEPPED: u8 = 2;
/// Less than certificates allow two machines to differ, which is five minutes.
const STEPS: [&str; 4] = ["+240", "-240", "+240", "+0"];

/// A wall clock of its own for the programs of a lab that are started with it. Their steady clocks are the machine's.
struct Clock {
    offset: PathBuf,
    program: PathBuf,
}

impl Clock {
    fn new(lab: &Lab, place: &std::path::Path) -> Result<Self> {
        let clock = Self { offset: place.join("offset"), program: place.join("gantry") };
        clock.set("+0")?;
        let script = format!(
            "#!/bin/sh\n\
             export LD_PRELOAD='/usr/$LIB/faketime/libfaketimeMT.so.1' FAKETIME_TIMESTAMP_FILE='{}' FAKETIME_NO_CACHE=1 \\\n\
             \x20 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n\
             exec '{}' \"$@\"\n",
            clock.offset.display(),
            lab.cli().program().display()
        );
        fs::write(&clock.program, script)?;
        fs::set_permissions(&clock.program, fs::Permissions::from_mode(0o755))?;
        Ok(clock)
    }

    /// By so many seconds from the machine's, from now on.
    fn set(&self, seconds: &str) -> Result<()> {
        let next = self.offset.with_extension("next");
        fs::write(&next, format!("{seconds}\n"))?;
        fs::rename(&next, &self.offset).context("the clock is not set")
    }

    /// Starts what of the lab does not run, with this clock.
    async fn resume(&self, lab: &Lab) -> Result<()> {
        let mut command = tokio::process::Command::new(lab.cli().program());
        command.envs(lab.cli().environment()).env("GANTRY_BIN", &self.program);
        let ended = command.args(["lab", "up", "--name", lab.name()]).output().await?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(())
    }
}

async fn events(lab: &Lab, reason: &str) -> Result<usize> {
    let told: Vec<Event> = lab.client().list(None).await?;
    Ok(told.iter().filter(|event| event.spec.reason == reason).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn wall_clocks_that_are_set_forth_and_back_move_nothing_and_hold_nothing_up() -> Result<()> {
    let lab = Lab::up(2).await?;
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    lab.shared_pool("nas", &place.path().join("nas"), "host-1,host-2").await?;
    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let mut sent = lab.guest(VM, &Workload { writes_to: Some(observer.address()), ..Workload::default() })?;
    sent.spec.pool = Some("nas".parse()?);
    sent.spec.host = Some(format!("host-{STEPPED}").parse()?);
    lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
    lab.gantry(&["vm", "set", VM, "--ha", "restart"]).await?.ok()?;
    let before = lab.serving(VM).await?;
    let sentinel = Sentinel::watch(before.metadata.uuid);

    let clock = Clock::new(&lab, place.path())?;
    lab.crash_controller()?;
    lab.crash_agent(STEPPED)?;
    clock.resume(&lab).await?;
    for step in STEPS {
        clock.set(step)?;
        observer.goes_on(100).await?;
        eventually("its guard is confirmed, and both hosts are ready", SETTLE_LIMIT, async || {
            let vm: Vm = lab.client().get(VM).await?;
            let hosts: Vec<Host> = lab.client().list(None).await?;
            ensure!(hosts.iter().all(|host| host.status.state == HostState::Ready), "{hosts:?}");
            ensure!(vm.status.is_guarded() && vm.status.epoch == before.status.epoch, "{:?}", vm.status);
            Ok(())
        })
        .await?;
        ensure!(events(&lab, "HostFencing").await? == 0, "a host was fenced after a step of {step} s");
        ensure!(events(&lab, "VmRestarted").await? == 0, "its VM was started again after a step of {step} s");
    }

    // It is not bound to the host any more, and set back its clock is no reason to wait.
    let mut free: Vm = lab.client().get(VM).await?;
    (free.spec.host, free.metadata.revision) = (None, 0);
    lab.client().update(&free, &WriteQuery::default()).await?;
    clock.set("-240")?;
    lab.cable("unplug", STEPPED).await?;
    let moved = eventually("it serves on the other host", BOOT_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        ensure!(vm.status.ready && host_of(&vm)? != STEPPED, "{:?}", vm.status);
        Ok(vm)
    })
    .await?;
    ensure!(moved.status.epoch > before.status.epoch, "{:?}", moved.status);
    sentinel.finish()?;
    lab.passed();
    Ok(())
}
