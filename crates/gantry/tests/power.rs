//! The lab's power driver against a real power strip and a real room (namespaces, cables). Needs root, as the lab does.

use std::sync::Arc;

use gantry_controller::power::{BuiltInDrivers, PowerDrivers, conformance};
use gantry_lab::{Room, reserve};
use gantry_types::{Host, HostPower, HostSpec, PowerDriverKind};

fn host(outlet: &str) -> Host {
    let power = Some(HostPower { driver: PowerDriverKind::Lab, outlet: Some(outlet.to_owned()) });
    Host::new("some".parse().expect("a name"), HostSpec { power, ..HostSpec::default() })
}

#[test]
fn the_labs_driver_is_what_the_trait_promises() {
    let base = tempfile::tempdir().expect("temp dir");
    // SAFETY: this test binary has one test, so nothing reads the environment at the same time.
    unsafe { std::env::set_var("GANTRY_LAB_DIR", base.path()) };
    let record = reserve(&"power".parse().expect("a name"), 1, false).expect("reserved");
    let room = Arc::new(Room::new(record));
    room.build().expect("built");
    let strip = Arc::clone(&room);
    // Until the test's end.
    std::thread::spawn(move || strip.serve_power());
    let socket = room.power_socket();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let checked = runtime.block_on(async {
        let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while !socket.exists() && tokio::time::Instant::now() < limit {
            tokio::task::yield_now().await;
        }
        let drivers = BuiltInDrivers { lab_strip: Some(socket.clone()) };
        let driver = |host: &Host| drivers.of(host).map_err(|problem| problem.to_string());
        conformance::run(&*driver(&host("host-1"))?).await?;
        conformance::refuses(&*driver(&host("host-9"))?).await?;
        let nowhere = BuiltInDrivers { lab_strip: Some(base.path().join("nothing.sock")) };
        let silent = nowhere.of(&host("host-1")).map_err(|problem| problem.to_string())?;
        conformance::refuses(&*silent).await
    });
    let down = Room::new(room.record().clone()).down();
    checked.unwrap_or_else(|why: String| panic!("{why}"));
    down.expect("down");
}
