//! A real room (namespaces, cables) without programs in it. Needs root, as the lab itself does.

use std::path::Path;
use std::process::{Command, Stdio};

use gantry_lab::{Room, reserve};

fn ping(room: &Room, from: u8, to: u8) -> bool {
    let mut ping = room.command(from, Path::new("ping"));
    let target = room.layout().host_address(to).to_string();
    ping.args(["-c", "1", "-W", "1", &target]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_room_is_built_cut_unplugged_and_leaves_nothing() {
    let base = tempfile::tempdir().expect("temp dir");
    // SAFETY: this test binary has one test, so nothing reads the environment at the same time.
    unsafe { std::env::set_var("GANTRY_LAB_DIR", base.path()) };
    let record = reserve(&"room".parse().expect("a name"), 2, false).expect("reserved");
    let room = Room::new(record.clone());
    room.build().expect("built");
    room.build().expect("building again changes nothing");
    assert!(ping(&room, 1, 2), "hosts reach each other");

    room.cut(2).expect("cut");
    assert!(!room.look().hosts[1].cable && room.look().hosts[0].cable);
    assert!(!ping(&room, 1, 2), "a cut cable carries nothing");
    room.mend(2).expect("mended");
    assert!(ping(&room, 1, 2));

    let mut sleeper = room.command(1, Path::new("sleep")).arg("600").spawn().expect("a process on host-1");
    while room.look().hosts[0].processes == 0 {
        std::thread::yield_now();
    }
    let host = "host-1".parse().expect("a name");
    let scope = gantry_cgroup::scope(&host, &room.host_directory(1));
    let groups = gantry_cgroup::Cgroups::find(&scope);
    let refused = groups.put(Path::new("vm-1"), sleeper.id());
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(room.unplug(1).expect("unplugged"), 1);
    assert!(!sleeper.wait().expect("it ended").success());
    assert_eq!(room.look().hosts[0].processes, 0);

    let again = reserve(&"room".parse().expect("a name"), 2, false).expect("the same lab");
    assert_eq!(again, record);
    let other = reserve(&"other".parse().expect("a name"), 1, false).expect("another lab");
    assert_ne!(other.index, record.index);

    for record in [record.clone(), other] {
        Room::new(record).down().expect("down");
    }
    let left = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains(&format!("gl{}-", record.index)), "{left}");
    let links = Command::new("ip").args(["-o", "link"]).output().expect("ip");
    assert!(!String::from_utf8_lossy(&links.stdout).contains(&room.layout().operator_link()));
    for hierarchy in groups.hierarchies() {
        assert!(!hierarchy.inside(Path::new("")).contains(&scope), "its control groups are gone");
    }
    assert!(!record.directory.exists());
}
