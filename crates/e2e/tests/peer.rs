//! The measures themselves: a guest started and moved by hand is seen as it should be. So a finding of the other tests
//! is the product's and not theirs. Needs root and QEMU, no lab.

use std::net::{IpAddr, Ipv4Addr};

use gantry_e2e::peer::{Like, bare_start, migrate_by_hand};
use gantry_e2e::{Workload, guest_image};
use gantry_qemu::machine::Accelerator;

fn like() -> anyhow::Result<Like> {
    Ok(Like {
        uuid: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned(),
        accelerator: Accelerator::Tcg,
        cpus: 1,
        memory_mib: 128,
        image: guest_image()?,
        disk_bytes: 256 << 20,
        mac: "52:54:00:00:00:11".parse()?,
        address: IpAddr::V4(Ipv4Addr::new(10, 250, 0, 10)),
        prefix_length: 24,
        user_data: Workload::default().user_data(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_started_by_hand_answers() -> anyhow::Result<()> {
    let took = bare_start(&like()?, IpAddr::V4(Ipv4Addr::new(10, 250, 0, 254))).await?;
    eprintln!("first answer after {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_moved_by_hand_loses_no_acknowledged_write() -> anyhow::Result<()> {
    let moved = migrate_by_hand(&like()?, Some((16, 8))).await?;
    eprintln!("{moved:?}");
    anyhow::ensure!(moved.acknowledged > 100, "the guest hardly wrote: {moved:?}");
    Ok(())
}
