use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::machine::{Arch, BackingImage, DiskFormat, KernelBoot, SocketsDir};

fn machine() -> MachineConfig {
    MachineConfig {
        name: "web".to_owned(),
        uuid: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned(),
        arch: Arch::X86_64,
        machine_type: Some("pc-q35-7.2".to_owned()),
        accelerator: Accelerator::Tcg,
        cpu_model: "max".to_owned(),
        cpus: 2,
        memory_mib: 256,
        firmware: Firmware::Bios,
        disks: vec![Disk {
            node_name: "root".to_owned(),
            location: "/vms/web/root.qcow2".into(),
            format: DiskFormat::Qcow2,
            read_only: false,
            backing: Some(BackingImage { location: "/images/tiny".into(), format: DiskFormat::Qcow2 }),
            direct_io: true,
            boot_index: Some(0),
        }],
        nics: vec![Nic { mac: "52:54:00:00:00:11".to_owned(), mtu: Some(1450) }],
        kernel: None,
        sockets: SocketsDir("/run/web".into()),
        console_log: "/vms/web/console.log".into(),
        incoming: false,
        start_paused: false,
        volumes: Vec::new(),
        screen: false,
        pvpanic: true,
        watchdog: false,
    }
}

fn launch() -> Launch {
    Launch { sandbox: Some("on"), tap_fds: vec![17] }
}

fn argv(machine: &MachineConfig) -> Vec<String> {
    let argv = machine.argv(&launch()).expect("argv");
    argv.into_iter().map(|arg| arg.into_string().expect("UTF-8")).collect()
}

#[test]
fn whole_argument_vector() {
    let expected = [
        "-name",
        "guest=web,debug-threads=on",
        "-uuid",
        "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-msg",
        "timestamp=on",
        "-sandbox",
        "on",
        "-machine",
        "pc-q35-7.2",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "cpus=2,sockets=1,cores=2,threads=1",
        "-m",
        "262136K",
        "-rtc",
        "base=utc",
        "-boot",
        "strict=on",
        "-chardev",
        "socket,id=qmp,server=on,wait=off,path=/run/web/qmp.sock",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "socket,id=console,server=on,wait=off,path=/run/web/console.sock,logappend=on,logfile=/vms/web/console.log",
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=agent,server=on,wait=off,path=/run/web/agent.sock",
        "-device",
        r#"{"driver":"virtio-serial-pci","id":"ports"}"#,
        "-device",
        r#"{"bus":"ports.0","chardev":"agent","driver":"virtserialport","id":"agent-port","name":"org.qemu.guest_agent.0"}"#,
        "-object",
        r#"{"id":"entropy","qom-type":"rng-builtin"}"#,
        "-device",
        r#"{"driver":"virtio-rng-pci","id":"rng","rng":"entropy"}"#,
        "-device",
        r#"{"driver":"pvpanic-pci","id":"panic"}"#,
        "-action",
        "panic=pause",
        "-blockdev",
        r#"{"backing":{"backing":null,"cache":{"direct":true},"driver":"qcow2","file":{"cache":{"direct":true},"discard":"unmap","driver":"file","filename":"/images/tiny","read-only":true},"read-only":true},"cache":{"direct":true},"detect-zeroes":"unmap","discard":"unmap","driver":"qcow2","file":{"cache":{"direct":true},"discard":"unmap","driver":"file","filename":"/vms/web/root.qcow2","read-only":false},"node-name":"root","read-only":false}"#,
        "-device",
        r#"{"bootindex":0,"drive":"root","driver":"virtio-blk-pci","id":"disk-root","rerror":"report","werror":"stop"}"#,
        "-netdev",
        r#"{"fd":"17","id":"net0","type":"tap"}"#,
        "-device",
        r#"{"driver":"virtio-net-pci","host_mtu":1450,"id":"nic0","mac":"52:54:00:00:00:11","netdev":"net0","romfile":""}"#,
        "-device",
        r#"{"addr":"0x18.0","chassis":1,"driver":"pcie-root-port","id":"slot0","multifunction":true,"port":0}"#,
        "-device",
        r#"{"addr":"0x18.1","chassis":2,"driver":"pcie-root-port","id":"slot1","port":1}"#,
        "-device",
        r#"{"addr":"0x18.2","chassis":3,"driver":"pcie-root-port","id":"slot2","port":2}"#,
        "-device",
        r#"{"addr":"0x18.3","chassis":4,"driver":"pcie-root-port","id":"slot3","port":3}"#,
        "-device",
        r#"{"addr":"0x18.4","chassis":5,"driver":"pcie-root-port","id":"slot4","port":4}"#,
        "-device",
        r#"{"addr":"0x18.5","chassis":6,"driver":"pcie-root-port","id":"slot5","port":5}"#,
        "-device",
        r#"{"addr":"0x18.6","chassis":7,"driver":"pcie-root-port","id":"slot6","port":6}"#,
        "-device",
        r#"{"addr":"0x18.7","chassis":8,"driver":"pcie-root-port","id":"slot7","port":7}"#,
    ];
    assert_eq!(argv(&machine()), expected);
}

#[test]
fn incoming_never_runs_by_itself() {
    let mut config = machine();
    config.incoming = true;
    let args = argv(&config);
    assert!(args.windows(2).any(|pair| pair == ["-incoming", "defer"]));
    assert!(args.contains(&"-S".to_owned()));
    config.incoming = false;
    assert!(!argv(&config).contains(&"-S".to_owned()));
}

#[test]
fn kernel_and_uefi() {
    let mut config = machine();
    config.kernel = Some(KernelBoot {
        kernel: "/k,x".into(),
        initrd: Some("/i".into()),
        cmdline: "console=ttyS0 a=b,c".to_owned(),
    });
    config.firmware = Firmware::Uefi { code: "/code".into(), vars: "/vars".into() };
    let args = argv(&config);
    for pair in [
        ["-kernel", "/k,x"],
        ["-initrd", "/i"],
        ["-append", "console=ttyS0 a=b,c"],
        ["-machine", "pc-q35-7.2,pflash0=firmware-code,pflash1=firmware-vars"],
    ] {
        assert!(args.windows(2).any(|window| window == pair), "{pair:?} in {args:?}");
    }
}

#[test]
fn tcg_ram_is_never_a_multiple_of_256_kib() {
    let mut config = machine();
    for memory_mib in [1, 64, 256, 4096] {
        config.memory_mib = memory_mib;
        assert_ne!(config.ram_kib() % 256, 0);
    }
    config.accelerator = Accelerator::Kvm;
    assert_eq!(config.ram_kib(), 4096 * 1024);
}

#[test]
fn what_cannot_work_is_refused() {
    let refused = |change: &dyn Fn(&mut MachineConfig)| {
        let mut config = machine();
        change(&mut config);
        config.argv(&launch()).expect_err("must be refused")
    };
    assert_eq!(refused(&|m| m.cpus = 0), MachineError::Zero { what: "cpus" });
    assert_eq!(refused(&|m| m.memory_mib = 0), MachineError::Zero { what: "memory" });
    assert_eq!(refused(&|m| m.nics.clear()), MachineError::TapCount { nics: 0, taps: 1 });
    assert!(matches!(
        refused(&|m| m.sockets.0 = format!("/{}", "x".repeat(100)).into()),
        MachineError::SocketPathTooLong { .. }
    ));
    assert!(matches!(refused(&|m| m.disks.push(m.disks[0].clone())), MachineError::DuplicateNode { .. }));
    for change in [
        &(|m: &mut MachineConfig| m.cpu_model = "max,-vmx".to_owned()) as &dyn Fn(&mut MachineConfig),
        &|m| m.machine_type = Some("q35,accel=kvm".to_owned()),
        &|m| m.disks[0].node_name = "1st".to_owned(),
        &|m| m.disks[0].location = "/a\0b".into(),
        &|m| m.nics[0].mac = "x".to_owned(),
        &|m| m.name = String::new(),
    ] {
        assert!(matches!(refused(change), MachineError::Characters { .. }));
    }
}

/// Undoes QEMU's key=value syntax (docs: "-chardev", util/keyval.c): a comma ends a value unless doubled.
fn key_values(option: &str) -> Vec<String> {
    let parts = option.replace(",,", "\u{1}");
    parts.split(',').map(|part| part.replace('\u{1}', ",")).collect()
}

proptest! {
    /// Whatever a name, a path or a command line contains: the number and the names of the options, and
    /// the keys within them, stay those of a harmless machine.
    #[test]
    fn no_text_becomes_an_option(
        text in "[^\0]{1,40}",
        harmless in Just("harmless".to_owned()),
    ) {
        let fill = |text: &str| {
            let mut config = machine();
            config.name = text.to_owned();
            config.disks[0].location = text.into();
            config.disks[0].backing = Some(BackingImage { location: text.into(), format: DiskFormat::Raw });
            config.sockets = SocketsDir(if text.len() < 80 { text.into() } else { "long".into() });
            config.kernel = Some(KernelBoot {
                kernel: text.into(),
                initrd: None,
                cmdline: text.to_owned(),
            });
            argv(&config)
        };
        let shape = |args: Vec<String>| -> Vec<Vec<String>> {
            let mut shape = Vec::new();
            let mut args = args.into_iter();
            while let Some(option) = args.next() {
                let keys = match option.as_str() {
                    "-nodefaults" | "-no-user-config" | "-S" => vec![],
                    "-kernel" | "-append" => { args.next(); vec![] }
                    "-blockdev" | "-device" | "-netdev" | "-object" => {
                        let value: Value = serde_json::from_str(&args.next().expect("value")).expect("JSON");
                        value.as_object().expect("object").keys().cloned().collect()
                    }
                    _ => key_values(&args.next().expect("value"))
                        .iter()
                        .map(|pair| pair.split('=').next().unwrap_or_default().to_owned())
                        .collect(),
                };
                shape.push([vec![option], keys].concat());
            }
            shape
        };
        prop_assert_eq!(shape(fill(&text)), shape(fill(&harmless)));
    }
}

#[test]
fn a_screen_is_a_card_with_keyboard_and_pointer_on_a_socket_and_nothing_else_changes() {
    for (arch, card) in [(Arch::X86_64, "VGA"), (Arch::Aarch64, "virtio-gpu-pci"), (Arch::Ppc64, "VGA")] {
        let without = argv(&MachineConfig { arch, ..machine() });
        let with = argv(&MachineConfig { screen: true, arch, ..machine() });
        assert_eq!(with[..without.len()], without[..], "other devices keep their places");
        let added = &with[without.len()..];
        assert_eq!(added[..2], ["-vnc", "unix:/run/web/vnc.sock"]);
        let devices: Vec<Value> = added[2..].chunks(2).map(|pair| serde_json::from_str(&pair[1]).unwrap()).collect();
        let drivers: Vec<_> = devices.iter().map(|device| device["driver"].as_str().unwrap()).collect();
        assert_eq!(drivers, [card, "qemu-xhci", "usb-kbd", "usb-tablet"]);
    }
    let odd = MachineConfig { screen: true, sockets: SocketsDir("/run/a,to=9".into()), ..machine() };
    assert!(argv(&odd).contains(&"unix:/run/a,,to=9/vnc.sock".to_owned()), "no option of its own");
}

#[test]
fn a_watchdog_stands_behind_everything_else_and_halts_its_guest() {
    let without = argv(&machine());
    let with = argv(&MachineConfig { watchdog: true, ..machine() });
    assert_eq!(with[..without.len()], without);
    let device = r#"{"driver":"i6300esb","id":"watchdog"}"#;
    assert_eq!(with[without.len()..], ["-device", device, "-action", "watchdog=pause"]);
}
