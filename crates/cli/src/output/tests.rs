//! Tables as they look: on an 80-column terminal, and piped.

use gantry_types::{
    Event, EventSpec, Host, HostSpec, HostState, Image, ImageSpec, Network, Operation, Resource, Severity, Vm, VmPhase,
};
use serde_json::json;

use super::*;

fn around() -> Surroundings {
    Surroundings { now: Timestamp::from_unix_ms(1_000_000), vms_of_hosts: Some([("host-1".to_owned(), 2)].into()) }
}

fn created<T: Resource>(mut object: T, seconds_ago: i64) -> T {
    object.metadata_mut().created_at = Some(Timestamp::from_unix_ms(1_000_000 - seconds_ago * 1000));
    object
}

fn vm(name: &str, phase: VmPhase, host: Option<&str>) -> Vm {
    let mut vm: Vm = serde_json::from_value(json!({
        "metadata": {"name": name, "uuid": "01a2088f-56c1-74a0-94c6-9cb861b0d204"},
        "spec": {"cpus": 2, "memory": "256MiB", "image": "tiny"},
    }))
    .unwrap();
    vm.status.phase = phase;
    vm.status.host = host.map(|host| host.parse().unwrap());
    if phase == VmPhase::Running {
        vm.status.ready = true;
        vm.status.nics = serde_json::from_value(json!([{
            "network": "default", "port": "9f023480-06d1-5aeb-82d6-02fb51961d2d",
            "mac": "52:54:00:9f:02:34", "address": "10.128.0.1",
        }]))
        .unwrap();
    }
    created(vm, 90)
}

fn table<T: Row>(objects: &[T], width: Option<u16>) -> String {
    Table::of(objects, false, &around()).render(width)
}

#[test]
fn vms() {
    let mut moving = vm("db", VmPhase::Migrating, Some("host-1"));
    moving.status.moving_to = Some("host-2".parse().unwrap());
    let vms = [vm("web", VmPhase::Running, Some("host-1")), moving, vm("new", VmPhase::Pending, None)];
    let expected = "\
NAME  PHASE      READY  HOST             CPUS  MEMORY  ADDRESS     AGE
web   running    yes    host-1           2     256MiB  10.128.0.1  90s
db    migrating  -      host-1 → host-2  2     256MiB  -           90s
new   pending    -      -                2     256MiB  -           90s
";
    assert_eq!(table(&vms, None), expected);
    assert_eq!(table(&vms, Some(80)), expected, "what fits is not touched");
    let mut failed = vm("big", VmPhase::Failed, None);
    failed.status.reason = Some("no host can take VM 'big': host-1 has 1GiB free".into());
    let wide = Table::of(&[failed], true, &around()).render(None);
    let columns = "AGE  IMAGE  UUID                                  CPU%  RSS  EPOCH  REASON";
    assert!(wide.lines().next().unwrap().contains(columns), "{wide}");
    assert!(wide.lines().nth(1).unwrap().ends_with("no host can take VM 'big': host-1 has 1GiB free"), "{wide}");
}

#[test]
fn hosts() {
    let mut host = Host::new("host-1".parse().unwrap(), HostSpec { cordoned: true, ..HostSpec::default() });
    host.status.state = HostState::Lost;
    host.status.agent_address = "10.64.0.1:7444".into();
    host.status.last_seen = Some(Timestamp::from_unix_ms(1_000_000 - 7_000));
    let joining = Host::new("host-2".parse().unwrap(), HostSpec::default());
    assert_eq!(
        table(&[host, joining], None),
        "\
NAME    STATE          VMS  CPUS  MEMORY  ACCEL  ADDRESS         SEEN  LEASE
host-1  lost,cordoned  2    -     -       -      10.64.0.1:7444  7s    -
host-2  joining        0    -     -       -      -               -     -
"
    );
}

#[test]
fn operations() {
    let operation: Operation = serde_json::from_value(json!({
        "metadata": {"name": "vm-start-1"},
        "spec": {
            "action": {"action": "vm_start"}, "target": {"kind": "vm", "name": "web"}, "requested_by": "token/admin",
        },
        "status": {
            "phase": "running",
            "steps": [
                {"name": "place", "state": "done", "attempts": 1},
                {"name": "image", "state": "running", "attempts": 2},
                {"name": "start", "state": "pending", "attempts": 0},
            ],
            "started_at": "1970-01-01T00:16:37.500Z",
        },
    }))
    .unwrap();
    assert_eq!(
        table(&[created(operation, 3)], None),
        "\
NAME        ACTION    TARGET  PHASE    STEP       AGE  DURATION
vm-start-1  vm-start  vm/web  running  2/3 image  3s   2.5s
"
    );
}

#[test]
fn networks_and_images() {
    let network: Network = serde_json::from_value(json!({
        "metadata": {"name": "default"}, "spec": {"subnet": {"cidr": "10.9.0.0/24"}}, "status": {"vni": 1000},
    }))
    .unwrap();
    let image = Image::new("tiny".parse().unwrap(), ImageSpec::default());
    assert_eq!(
        table(&[created(network, 7200)], None) + &table(&[created(image, 5)], None),
        "\
NAME     VNI   SUBNET       MTU   USED  AGE
default  1000  10.9.0.0/24  1450  0     2h
NAME  PHASE    VIRTUAL  FILE  FORMAT  AGE
tiny  pending  -        -     -       5s
"
    );
}

fn event(message: &str) -> Event {
    let regarding = vm("web", VmPhase::Running, None).reference();
    let spec = EventSpec {
        regarding,
        severity: Severity::Warning,
        reason: "VmFailed".into(),
        message: message.into(),
        host: None,
        operation: None,
    };
    created(Event::new("e1".parse().unwrap(), spec), 5)
}

#[test]
fn a_row_is_one_line_and_nothing_in_it_is_broken_however_narrow_the_terminal() {
    let message = "QEMU on host-1 ended with status 1: the disk image could not be opened because it is full";
    for width in [Some(30), Some(80), None] {
        let text = table(&[event(message)], width);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(message), "{text}");
    }
    let operation: Operation = serde_json::from_value(json!({
        "metadata": {"name": "vm-start-d3b4e0c1150c"},
        "spec": {
            "action": {"action": "vm_start"}, "target": {"kind": "vm", "name": "a-rather-long-name"},
            "requested_by": "token/admin",
        },
    }))
    .unwrap();
    assert!(table(&[operation], Some(20)).contains("vm-start-d3b4e0c1150c"), "it is there to be copied");
}

#[test]
fn on_a_terminal_a_reason_is_cut_where_the_line_ends_and_in_a_pipe_it_is_whole() {
    let reason = "no host can take VM 'big': ".to_owned() + &"host-1 has 1GiB free; ".repeat(20);
    let mut failed = vm("big", VmPhase::Failed, None);
    failed.status.reason = Some(reason.clone());
    let wide = Table::of(&[failed], true, &around());
    let cut = wide.render(Some(180));
    assert!(cut.lines().all(|line| line.chars().count() <= 180), "{cut}");
    assert!(cut.contains("no host can take VM") && cut.ends_with("…\n"), "{cut}");
    assert!(wide.render(Some(40)).contains(reason.trim()), "no room for it at all: the line runs over");
    assert!(wide.render(None).contains(reason.trim()));
}

#[test]
fn a_guest_can_not_drive_the_terminal() {
    let hostile = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\nnext\u{9b}31m";
    for text in [table(&[event(hostile)], None), table(&[event(hostile)], Some(80))] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }
    let mut vm = vm("web", VmPhase::Failed, None);
    vm.status.reason = Some(hostile.into());
    let text = describe(&vm, &[event(hostile)], &[], around().now);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn a_description_has_sections() {
    let text = describe(&vm("web", VmPhase::Running, Some("host-1")), &[event("it broke")], &[], around().now);
    for expected in [
        "Name:                  web\n",
        "(90s ago)",
        "\nSpec:\n",
        "  Memory:                256MiB\n",
        "\nStatus:\n",
        "  Nics:\n    - address=10.128.0.1",
        "\nEvents:\n  AGE  SEVERITY  REASON    MESSAGE\n  5s   warning   VmFailed  it broke\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing:\n{text}");
    }
}

#[test]
fn rows_printed_later_stand_below_the_earlier_ones() {
    let mut widths = Vec::new();
    let print = |vm: &Vm, widths: &mut _| Table::of(std::slice::from_ref(vm), false, &around()).render_below(widths);
    let first = print(&vm("a-long-name", VmPhase::Running, Some("host-1")), &mut widths);
    let second = print(&vm("web", VmPhase::Running, Some("host-1")), &mut widths);
    assert_eq!(first.lines().count(), 2, "header and row");
    assert_eq!(second.lines().count(), 1, "the header is printed once");
    let column = |line: &str| line.find("running");
    assert_eq!(column(first.lines().nth(1).unwrap()), column(&second));
}
