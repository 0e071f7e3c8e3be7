//! Whether a guest really executes. QEMU's word alone is not enough: a machine that arrived broken also "runs".

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_api::agent::Liveness;
use gantry_qemu::machine::Disk;
use gantry_qemu::process::QemuProcess;
use gantry_qemu::qmp::{
    Qmp,
    command::{QueryBlockstats, QueryStatus},
};
use gantry_types::Problem;
use tokio::time::timeout;
use uuid::Uuid;

use super::machine::DISK_NODE;
use super::{Command, MONITOR_LIMIT, VmHandle, within};
use crate::problem::problem;

/// An idle guest's clock ticks at least this often; its agent is asked every two seconds.
const CPU_LIMIT: Duration = Duration::from_secs(3);
const GUEST_AGENT_LIMIT: Duration = Duration::from_secs(10);
/// An answer of the guest's agent that is no older shows as much as a new one. A VM that has just come here is asked as
/// soon as it runs, and could not answer before.
const FRESH: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the VM's task lends for a look at its QEMU.
pub(crate) struct Probe {
    pub process: Arc<QemuProcess>,
    pub qmp: Qmp,
    /// Why it stands still although nothing is wrong with it: it goes on by itself when there is room.
    pub waits_for_room: Option<String>,
}

pub(crate) async fn check(vm: Uuid, handle: &VmHandle, expect_guest_agent: bool) -> Result<Liveness, Problem> {
    let begun = Instant::now();
    let fresh = begun.checked_sub(FRESH).unwrap_or(begun);
    // Asked twice, it would be asked over yet another connection.
    if !handle.shared.guest_agent_answered_since(fresh) && !handle.shared.guest_was_asked_since(fresh) {
        handle.shared.ask_guest_now();
    }
    let probe = handle.ask(vm, Command::Probe).await?;
    let what = format!("the liveness of VM {vm}");
    let failed = |error| problem("liveness-unknown", &what, &error);
    let status = within(MONITOR_LIMIT, vm, probe.qmp.execute(QueryStatus {})).await?.map_err(failed)?;
    let disks = within(MONITOR_LIMIT, vm, probe.qmp.execute(QueryBlockstats {})).await?.map_err(failed)?;
    let disk = disks.iter().find(|disk| disk.qdev.as_deref().is_some_and(|qdev| Disk::is_device(qdev, DISK_NODE)));
    let disk_writes = disk.map_or(0, |disk| disk.stats.wr_operations);
    if !status.running {
        let evidence = format!("QEMU says the guest is '{}'", status.status);
        let (alive, evidence) = match &probe.waits_for_room {
            Some(why) => (true, format!("{evidence}: {why}")),
            None => (false, evidence),
        };
        return Ok(Liveness { alive, evidence, disk_writes, guest_clock_lag_ms: None });
    }
    let cpu_time = || {
        let usage = probe.process.usage();
        usage.map(|usage| usage.cpu_time_ms).map_err(|error| problem("liveness-unknown", &what, &error))
    };
    let first_ms = cpu_time()?;
    loop {
        let answer = handle.shared.guest_answer();
        let used_ms = cpu_time()?.saturating_sub(first_ms);
        let answered = handle.shared.guest_agent_answered_since(fresh);
        let (alive, limit) = match expect_guest_agent {
            true => (answered, GUEST_AGENT_LIMIT),
            false => (answered || used_ms > 0, CPU_LIMIT),
        };
        if alive || begun.elapsed() > limit {
            let agent = if answered { "answered" } else { "did not answer" };
            let waited_ms = begun.elapsed().as_millis();
            let evidence = format!(
                "QEMU says running, used {used_ms} ms of processor time in {waited_ms} ms, the guest agent {agent}"
            );
            let guest_clock_lag_ms = handle.shared.guest_clock_lag_ms().filter(|_| answered);
            return Ok(Liveness { alive, evidence, disk_writes, guest_clock_lag_ms });
        }
        // Without an answer the processor time is looked at again.
        drop(timeout(LOOK_AGAIN, answer).await);
    }
}
