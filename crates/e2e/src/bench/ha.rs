//! `bench ha`: from a host's power loss to the first request that its VM serves again, against Pacemaker and corosync with
//! the same guest; and from an application's failure to the decision about it.
//!
//! Both sides have a switch for the power of a lost machine that answers at once. Without one the product counts on the end of the
//! host's lease, which is measured as well.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_types::{Event, Host, HostState, Probe, ProbeCheck, ProbeKind, ProbeState, Timestamp, Vm};

use super::{Better, Figure, median};
use crate::lab::{SETTLE_LIMIT, address, host_of};
use crate::peer::pacemaker::{self, FailOver, Tuning};
use crate::peer::{Like, PEER_GUEST, ask_neighbours_often, first_answer};
use crate::{Lab, Workload, eventually, guest_image, http_get, qemus, started_at};

const VM: &str = "web";
const HOSTS: u8 = 3;
const RATIO_LIMIT: f64 = 0.25;
const TOTAL_LIMIT_MS: f64 = 10_000.0;
/// Between two questions whether the application has failed.
const PAUSE: Duration = Duration::from_millis(5);

/// What of a fail-over took how long.
type Part = fn(&FailOver) -> Duration;

pub async fn ha(runs: usize) -> Result<Vec<Figure>> {
    let lab = Lab::up(HOSTS).await?;
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    lab.shared_pool("nas", &place.path().join("nas"), "host-1,host-2,host-3").await?;
    lab.import_guest().await?;
    ask_neighbours_often(&lab.room().layout().operator_vxlan())?;
    let mut sent = lab.guest(VM, &Workload::default())?;
    sent.spec.pool = Some("nas".parse()?);
    lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
    lab.gantry(&["vm", "set", VM, "--ha", "restart", "--ha-restarts", "60"]).await?.ok()?;
    let model = lab.serving(VM).await?;
    let like = Like::vm(&model, &guest_image()?, PEER_GUEST, model.spec.user_data.clone().unwrap_or_default())?;

    // A lab's hosts have the switch.
    power(&lab, "none").await?;
    let by_lease = power_loss(&lab).await?;
    eprintln!("ha: by the end of its lease {by_lease:?}");
    power(&lab, "lab").await?;
    let (mut product, mut quick, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        product.push(power_loss(&lab).await?);
        quick.push(pacemaker::fail_over(&like, Tuning::Quick).await?);
        defaults.push(pacemaker::fail_over(&like, Tuning::Defaults).await?);
        let last = |all: &[FailOver]| all.last().map(|one| (one.total(), *one));
        eprintln!(
            "ha {run}: gantry {:?}, Pacemaker tuned {:?}, with its defaults {:?}",
            last(&product),
            last(&quick),
            last(&defaults)
        );
    }
    let decision = application_failure(&lab).await?;
    lab.passed();

    let of = |all: &[FailOver], part: Part| all.iter().map(part).collect::<Vec<_>>();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let parts: [(&str, Part); 4] = [
        ("detection", |one| one.detection),
        ("proof", |one| one.proof),
        ("placement", |one| one.placement),
        ("boot", |one| one.boot),
    ];
    let mut figures = Vec::new();
    for (name, part) in parts {
        let (ours, theirs) = (median(&of(&product, part)), median(&of(&quick, part)));
        figures.push(Figure::against(&format!("ha_{name}_ms"), ms(ours), ms(theirs), Better::Lower, runs));
    }
    let (ours, tuned, usual) =
        (of(&product, FailOver::total), of(&quick, FailOver::total), of(&defaults, FailOver::total));
    let without_boot = |all: &[FailOver]| median(&of(all, |one| one.total() - one.boot));
    figures.extend([
        Figure::against(
            "ha_until_qemu_starts_ms",
            ms(without_boot(&product)),
            ms(without_boot(&quick)),
            Better::Lower,
            runs,
        ),
        Figure::medians("ha_serving_again_to_tuned_ms", &ours, &tuned, RATIO_LIMIT),
        Figure::against("ha_serving_again_to_defaults_ms", ms(median(&ours)), ms(median(&usual)), Better::Lower, runs),
        Figure::alone("ha_serving_again_ms", ms(median(&ours)), Better::Lower, runs).promise(TOTAL_LIMIT_MS),
        Figure::alone("ha_serving_again_without_power_switch_ms", ms(by_lease.total()), Better::Lower, 1)
            .promise(TOTAL_LIMIT_MS),
        Figure::alone("ha_application_failure_to_restart_ms", ms(decision), Better::Lower, 1),
    ]);
    Ok(figures)
}

async fn power(lab: &Lab, driver: &str) -> Result<()> {
    for number in 1..=HOSTS {
        lab.gantry(&["host", "set", &format!("host-{number}"), "--power", driver]).await?.ok()?;
    }
    Ok(())
}

async fn vm(lab: &Lab) -> Result<Vm> {
    Ok(lab.client().get(VM).await?)
}

/// Takes the power of the VM's host and brings everything back afterwards.
async fn power_loss(lab: &Lab) -> Result<FailOver> {
    let before = eventually("everything is as it should be", SETTLE_LIMIT, async || {
        let hosts: Vec<Host> = lab.client().list(None).await?;
        let is_well = |host: &Host| host.status.state == HostState::Ready && host.status.fence.is_none();
        ensure!(hosts.iter().all(is_well), "{hosts:?}");
        let vm = vm(lab).await?;
        ensure!(vm.status.ready && vm.status.is_guarded() && vm.status.operation.is_none(), "{:?}", vm.status);
        Ok(vm)
    })
    .await?;
    let (host, address) = (host_of(&before)?, address(&before)?);
    let (lost_at, lost) = (SystemTime::now(), Instant::now());
    lab.cable("unplug", host).await?;
    let answered = tokio::task::spawn_blocking(move || first_answer(address)).await??;
    let total = answered - lost;
    let sights = qemus(before.metadata.uuid);
    ensure!(sights.len() == 1, "the guest is in {sights:?}");
    let started = started_at(sights[0].pid)?.duration_since(lost_at).context("its QEMU is the one from before")?;
    let events: Vec<Event> = lab.client().list(None).await?;
    let told = |reason: &str| {
        let its = events.iter().filter(|event| {
            event.spec.reason == reason && event.spec.regarding.name.as_str() == format!("host-{host}")
        });
        let at = its.filter_map(|event| event.metadata.created_at).filter(|at| *at >= Timestamp::from(lost_at)).min();
        at.map(|at| at.since(Timestamp::from(lost_at))).with_context(|| format!("no event {reason}"))
    };
    let (detection, proof) = (told("HostLost")?, told("HostFenced")?);
    lab.cable("plug", host).await?;
    lab.resume().await?;
    Ok(FailOver {
        detection,
        proof: proof.saturating_sub(detection),
        placement: started.saturating_sub(proof),
        boot: total.saturating_sub(started),
    })
}

/// From the first request that the application does not serve to the moment at which its host has ended its QEMU for it. Its
/// probe asks once a second and fails after three times, as the peer's monitors would.
async fn application_failure(lab: &Lab) -> Result<Duration> {
    let mut sent = vm(lab).await?;
    let serves = Probe { period_s: 1, timeout_s: 1, ..Probe::new(ProbeKind::Liveness, "http://:80/".parse()?) };
    let mut breaks = Probe { period_s: 1, ..Probe::new(ProbeKind::Readiness, "exec:/bin/sh -c".parse()?) };
    if let ProbeCheck::Exec(exec) = &mut breaks.check {
        exec.command.push("killall httpd".to_owned());
    }
    sent.spec.probes = vec![serves.clone()];
    sent.metadata.revision = 0;
    lab.client().update(&sent, &WriteQuery::default()).await?;
    eventually("it is known to serve", SETTLE_LIMIT, async || {
        let vm = vm(lab).await?;
        ensure!(vm.status.probes.iter().any(|probe| probe.state == ProbeState::Passing), "{:?}", vm.status.probes);
        Ok(())
    })
    .await?;
    let address = address(&sent)?;
    let failed = tokio::task::spawn_blocking(move || first_failure(address));
    sent.spec.probes = vec![serves, breaks];
    lab.client().update(&sent, &WriteQuery::default()).await?;
    let failed = Timestamp::from(failed.await??);
    let decided = eventually("its host has ended it", SETTLE_LIMIT, async || {
        let vm = vm(lab).await?;
        let at = vm.status.ha.last_at.filter(|at| *at >= failed);
        at.with_context(|| format!("{:?}", vm.status.ha))
    })
    .await?;
    Ok(decided.since(failed))
}

fn first_failure(address: IpAddr) -> Result<SystemTime> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while http_get(address, "/", Duration::from_secs(1)).is_ok() {
        ensure!(Instant::now() < deadline, "the application goes on serving");
        std::thread::sleep(PAUSE);
    }
    Ok(SystemTime::now())
}
