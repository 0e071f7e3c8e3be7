//! A protected VM that outlives what happens to it: the guest of each boot tells an observer of its own what it was told is durable,
//! and checks what the boot before it has written.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_types::{Host, HostState, Vm, VmSpec};

use crate::lab::{BOOT_LIMIT, SETTLE_LIMIT, address, host_of};
use crate::{Lab, Observer, Workload, eventually, workload_figure};

/// The VM of each story.
pub const VM: &str = "web";
/// Each boot checks what the one before wrote, then writes numbered blocks to a file of its own.
fn user_data(observers: &[SocketAddr]) -> String {
    let mut text = String::from("#cloud-config\nbootcmd:\n");
    let mut line = |command: &str| _ = writeln!(text, "  - {command}");
    line("sync");
    line("B=$(cat /data/boots)");
    line("test -f /data/seq-$((B - 1)) && wl seqcheck /data/seq-$((B - 1)) > /run/wl/seqcheck");
    line("dd if=/dev/zero of=/data/seq-$B bs=1048576 count=2");
    line("sync");
    let told: Vec<String> = observers.iter().map(SocketAddr::to_string).collect();
    line(&format!("O=$(echo {} | cut -d' ' -f$B)", told.join(" ")));
    line("wl seq /data/seq-$B $O 2000 > /run/seq.log 2>&1 &");
    text
}

pub struct Story {
    pub lab: Lab,
    observers: Vec<Observer>,
    boot: usize,
}

impl Story {
    /// A protected VM whose disk is in this pool, with observers for so many boots.
    pub async fn begin(lab: Lab, pool: &str, boots: usize) -> Result<Self> {
        let pool = pool.parse()?;
        Self::begin_with(lab, boots, |spec| spec.pool = Some(pool)).await
    }

    /// The same of a VM that is changed like this before it is made.
    pub async fn begin_with(lab: Lab, boots: usize, change: impl FnOnce(&mut VmSpec)) -> Result<Self> {
        lab.import_guest().await?;
        let observers = (0..boots).map(|_| Observer::listen(lab.outside())).collect::<Result<Vec<_>>>()?;
        let addresses: Vec<SocketAddr> = observers.iter().map(Observer::address).collect();
        let mut sent = lab.guest(VM, &Workload::default())?;
        change(&mut sent.spec);
        sent.spec.user_data = Some(user_data(&addresses));
        lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
        let probes = ["--readiness-probe", "http://:80/", "--probe-body", "ok", "--probe-period", "1"];
        let protect = ["vm", "set", VM, "--ha", "restart", "--priority", "high"];
        lab.gantry(&[&protect[..], &probes[..]].concat()).await?.ok()?;
        Ok(Self { lab, observers, boot: 0 })
    }

    pub async fn vm(&self) -> Result<Vm> {
        Ok(self.lab.client().get(VM).await?)
    }

    pub fn observer(&self) -> &Observer {
        &self.observers[self.boot]
    }

    /// The host that it runs on, once it writes there, its guard is confirmed and what it may go to is ready.
    pub async fn settled(&self) -> Result<u8> {
        self.lab.serving(VM).await?;
        eventually("it writes, guarded", SETTLE_LIMIT, async || {
            let vm = self.vm().await?;
            ensure!(vm.status.is_guarded(), "{:?}", vm.status);
            ensure!(self.observer().count() > 50, "{} writes", self.observer().count());
            host_of(&vm)
        })
        .await
    }

    /// It serves again after its host has failed: everything that was acknowledged is there, and the run before is silent.
    pub async fn runs_again(&mut self, what: &str, failed: Instant) -> Result<Vm> {
        let before = self.vm().await?;
        self.boot += 1;
        let address = address(&before)?;
        let first = eventually(&format!("it runs again after {what}"), BOOT_LIMIT, async || {
            let first = self.observer().report().arrivals.first().map(|(_, _, at)| *at);
            first.context("the next boot has written nothing yet")
        })
        .await?;
        let vm = self.lab.serving(VM).await?;
        let last =
            eventually("it has checked its disk", SETTLE_LIMIT, async || workload_figure(address, "last")).await?;
        let former = self.observers[self.boot - 1].report();
        ensure!(last >= former.last, "after {what}: {} was acknowledged, the guest found {last}", former.last);
        ensure!(workload_figure(address, "bad")? == 0, "after {what} the guest found damaged blocks");
        let late = former.arrivals.iter().filter(|(_, _, at)| *at > first).count();
        ensure!(late == 0, "after {what} the run before was heard {late} times while the next one ran");
        ensure!(former.doubled.is_empty() && self.observer().report().doubled.is_empty(), "it ran twice");
        self.lab.runs_in_one_place(VM).await?;
        println!("{what}: it wrote again {} ms later", first.duration_since(failed).as_millis());
        Ok(vm)
    }

    pub async fn host_is(&self, host: u8, state: HostState) -> Result<()> {
        eventually(&format!("host-{host} is {state:?}"), SETTLE_LIMIT, async || {
            let host: Host = self.lab.client().get(&format!("host-{host}")).await?;
            ensure!(host.status.state == state && host.status.fence.is_none(), "{:?}", host.status);
            Ok(())
        })
        .await
    }
}
