//! `bench placement`: how long decisions take, by the number of hosts.
//!
//! The datacenter is half full, with labels, racks and rules as people write them. It needs no host and no peer: what is
//! timed is the pure engine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_placement::{HostFacts, Request, Settings, Snapshot, VmFacts, place, place_batch};
use gantry_types::{Host, HostSpec, HostState, HostStatus, Vm, VmSpec};
use serde_json::json;
use uuid::Uuid;

use super::{Better, Figure, median, percentile};

const SIZES: [u32; 4] = [100, 1_000, 10_000, 100_000];
const VMS_PER_HOST: u32 = 2;
const DECISIONS: u32 = 300;
const BATCH: u32 = 1_000;
const BATCH_HOSTS: u32 = 10_000;
const P99_LIMIT_MS: f64 = 5.0;
const BATCH_LIMIT_MS: f64 = 1000.0;

pub fn placement() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut medians = Vec::new();
    for hosts in SIZES {
        let snapshot = datacenter(hosts)?;
        let mut times = Vec::new();
        for number in 0..DECISIONS {
            let request = Request::new(&vm(u32::MAX / 2 + number, None)?);
            let started = Instant::now();
            let answer = black_box(place(&snapshot, black_box(&request)));
            times.push(started.elapsed());
            answer.context("a half empty datacenter must take one more VM")?;
        }
        let p99 = Figure::alone(
            &format!("place_{hosts}_hosts_p99_ms"),
            ms(percentile(&times, 99)),
            Better::Lower,
            times.len(),
        );
        figures.push(Figure::alone(
            &format!("place_{hosts}_hosts_p50_ms"),
            ms(median(&times)),
            Better::Lower,
            times.len(),
        ));
        figures.push(if hosts == BATCH_HOSTS { p99.promise(P99_LIMIT_MS) } else { p99 });
        medians.push(ms(median(&times)));
        if hosts == BATCH_HOSTS {
            figures.push(batch(&snapshot)?);
        }
    }
    for (pair, sizes) in medians.windows(2).zip(SIZES.windows(2)) {
        let name = format!("place_growth_{}_to_{}_hosts_x", sizes[0], sizes[1]);
        figures.push(Figure::alone(&name, pair[1] / pair[0].max(1e-9), Better::Lower, DECISIONS as usize));
    }
    Ok(figures)
}

fn batch(snapshot: &Snapshot) -> Result<Figure> {
    let requests: Vec<Request> =
        (0..BATCH).map(|number| Ok(Request::new(&vm(u32::MAX / 2 + number, None)?))).collect::<Result<_>>()?;
    let started = Instant::now();
    let answers = black_box(place_batch(snapshot, black_box(&requests)));
    let took = started.elapsed();
    for (_, answer) in answers {
        answer.context("a half empty datacenter must take the batch")?;
    }
    let name = format!("place_batch_{BATCH}_at_{BATCH_HOSTS}_hosts_ms");
    Ok(Figure::alone(&name, ms(took), Better::Lower, 1).promise(BATCH_LIMIT_MS))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn datacenter(hosts: u32) -> Result<Snapshot> {
    let facts: Vec<HostFacts> = (0..hosts).map(|number| Ok(HostFacts::from(&host(number)?))).collect::<Result<_>>()?;
    let mut vms = Vec::new();
    for number in 0..hosts * VMS_PER_HOST {
        vms.push(VmFacts::from(&vm(number, Some(number / VMS_PER_HOST))?));
    }
    Ok(Snapshot::build(Settings::default(), facts, vms))
}

fn host(number: u32) -> Result<Host> {
    let spec: HostSpec = serde_json::from_value(json!({
        "failure_domain": { "rack": format!("rack-{}", number / 40), "site": format!("site-{}", number / 4000) }
    }))?;
    let mut host = Host::new(format!("host-{number:06}").parse()?, spec);
    host.metadata.labels.0 =
        [("disk".to_owned(), if number.is_multiple_of(3) { "ssd" } else { "hdd" }.to_owned())].into();
    // 64 GiB to 256 GiB.
    let memory_gib = 64 << (number % 3);
    let status: HostStatus = serde_json::from_value(json!({
        "state": HostState::Ready,
        "inventory": {
            "arch": "x86_64", "cpu": { "count": 32, "model": "some", "flags": ["sse2", "avx2"] },
            "memory": format!("{memory_gib}GiB"), "qemu_version": "7.2.17", "kvm": true, "guest_archs": ["x86_64"],
            "sandbox": true, "post_copy": true, "kernel": "6.1", "agent_version": "0.1.0",
            "pools": [{ "name": "default", "capacity": "4TiB", "free": "2TiB" }]
        }
    }))?;
    host.status = status;
    Ok(host)
}

fn vm(number: u32, on: Option<u32>) -> Result<Vm> {
    let app = format!("app-{}", number % 50);
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 1 + number % 8,
        "memory": format!("{}GiB", 2 << (number % 4)),
        "disk": "20GiB",
        // Every tenth keeps apart from its like.
        "placement": if number.is_multiple_of(10) {
            json!({ "vms": [{ "keep": "apart", "selector": format!("app={app}"), "strength": "should" }] })
        } else {
            json!({})
        },
    }))?;
    let mut vm = Vm::new(format!("vm-{number:010}").parse()?, spec);
    vm.metadata.uuid = Uuid::from_u128(u128::from(number) + 1);
    vm.metadata.labels.0 = [("app".to_owned(), app)].into();
    vm.status.host = on.map(|host| format!("host-{host:06}").parse()).transpose()?;
    Ok(vm)
}
