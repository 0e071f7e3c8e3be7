//! `bench start`: from the command to the first HTTP answer, against bare QEMU.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_types::Vm;

use super::Figure;
use crate::peer::{Like, ask_neighbours_often, bare_start, first_answer};
use crate::{GUEST_IMAGE, Lab, Workload, guest_image};

/// `vm create` may take this much longer than QEMU itself.
const LIMIT: f64 = 1.15;
const PEER_OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 254));
const PEER_GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 10));

pub async fn start(runs: usize) -> Result<Vec<Figure>> {
    let lab = Lab::up(1).await?;
    lab.import_guest().await?;
    ask_neighbours_often(&lab.room().layout().operator_vxlan())?;
    let IpAddr::V4(outside) = lab.outside() else { unreachable!("labs are IPv4") };
    let [a, b, c, _] = outside.octets();

    // Brings the image to the host, and is what the peer imitates.
    let model = lab.run_vm("model", None, &Workload::default()).await?;
    let image = guest_image()?;
    let like = Like::vm(&model, &image, PEER_GUEST, model.spec.user_data.clone().unwrap_or_default())?;
    let user_data = tempfile::NamedTempFile::new()?;
    std::fs::write(user_data.path(), &like.user_data)?;
    lab.gantry(&["vm", "delete", "model"]).await?.ok()?;

    let (mut product, mut peer) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // An address nobody has been asked about yet.
        let address = Ipv4Addr::new(a, b, c, 100 + u8::try_from(run).context("too many runs")?);
        product.push(product_start(&lab, &like, address, user_data.path()).await?);
        peer.push(bare_start(&like, PEER_OUTSIDE).await?);
        eprintln!("start {}: gantry {:?}, bare QEMU {:?}", run + 1, product[run], peer[run]);
    }
    lab.passed();
    Ok(vec![Figure::medians("start_first_http_answer_ms", &product, &peer, LIMIT)])
}

async fn product_start(lab: &Lab, like: &Like, address: Ipv4Addr, user_data: &std::path::Path) -> Result<Duration> {
    let (cpus, memory) = (like.cpus.to_string(), format!("{}MiB", like.memory_mib));
    let network = format!("default,ip={address}");
    let user_data = user_data.to_str().context("the scratch directory is not UTF-8")?;
    let started = Instant::now();
    let answered = tokio::task::spawn_blocking(move || first_answer(address.into()));
    let command = ["vm", "create", "bench", "--image", GUEST_IMAGE, "--cpus", &cpus, "--memory", &memory];
    let command = command.into_iter().chain(["--network", &network, "--user-data", user_data, "--no-wait"]);
    lab.gantry(&command.collect::<Vec<_>>()).await?.ok()?;
    let answered = answered.await??;
    let vm: Vm = lab.serving("bench").await?;
    lab.gantry(&["vm", "delete", vm.metadata.name.as_str()]).await?.ok()?;
    Ok(answered - started)
}
