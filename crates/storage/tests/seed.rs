//! The seed is a FAT disk that cloud-init, and a guest that reads it with `sed`, understand.

use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt;

use gantry_storage::{Seed, SeedError, SeedNic};
use gantry_types::ErrorClass;
use proptest::prelude::*;

fn seed() -> Seed {
    Seed {
        instance_id: "2f1c8e0a-0000-4000-8000-000000000001".to_owned(),
        hostname: "web".to_owned(),
        nics: vec![SeedNic {
            mac: "52:54:00:12:34:56".parse().unwrap(),
            addresses: vec!["10.20.0.5/24".parse().unwrap(), "fd00::5/64".parse().unwrap()],
            gateways: vec!["10.20.0.1".parse().unwrap()],
            dns: vec!["10.20.0.53".parse().unwrap()],
            mtu: Some(1450),
        }],
        user_data: Some(b"#cloud-config\nruncmd:\n  - echo hello\n".to_vec()),
    }
}

fn read(disk: &[u8], name: &str) -> String {
    let file_system = fatfs::FileSystem::new(Cursor::new(disk.to_vec()), fatfs::FsOptions::new()).unwrap();
    let mut text = String::new();
    file_system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn holds_the_three_files_under_the_label_cidata() {
    let disk = seed().build().unwrap();
    let file_system = fatfs::FileSystem::new(Cursor::new(disk.clone()), fatfs::FsOptions::new()).unwrap();
    assert_eq!(file_system.volume_label(), "cidata");
    assert_eq!(file_system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("cidata"));
    assert_eq!(read(&disk, "meta-data"), "instance-id: 2f1c8e0a-0000-4000-8000-000000000001\nlocal-hostname: web\n");
    assert_eq!(read(&disk, "user-data"), "#cloud-config\nruncmd:\n  - echo hello\n");
}

#[test]
fn network_config_is_netplan_version_2() {
    let text = read(&seed().build().unwrap(), "network-config");
    let document: serde_norway::Value = serde_norway::from_str(&text).unwrap();
    assert_eq!(document["version"], 2);
    let nic = &document["ethernets"]["eth0"];
    assert_eq!(nic["match"]["macaddress"], "52:54:00:12:34:56");
    assert_eq!(nic["set-name"], "eth0");
    assert_eq!(nic["addresses"][0], "10.20.0.5/24");
    assert_eq!(nic["addresses"][1], "fd00::5/64");
    assert_eq!(nic["gateway4"], "10.20.0.1");
    assert_eq!(nic["nameservers"]["addresses"][0], "10.20.0.53");
    assert_eq!(nic["mtu"], 1450);
    assert!(nic.get("dhcp4").is_none() && nic.get("routes").is_none());
    // Without a gateway there is a way to the services all the same.
    let mut without = seed();
    without.nics[0].gateways.clear();
    let document: serde_norway::Value =
        serde_norway::from_str(&read(&without.build().unwrap(), "network-config")).unwrap();
    let route = &document["ethernets"]["eth0"]["routes"][0];
    assert_eq!((route["to"].as_str(), route["scope"].as_str()), (Some("169.254.169.254/32"), Some("link")));
}

/// The lines that small guests look for: the first `- ADDRESS/PREFIX`, and `gateway4: ADDRESS`.
#[test]
fn network_config_can_be_read_line_by_line() {
    let text = read(&seed().build().unwrap(), "network-config");
    let after = |prefix: &'static str| text.lines().filter_map(move |line| line.trim().strip_prefix(prefix));
    assert_eq!(after("- ").find(|word| word.contains('/')), Some("10.20.0.5/24"));
    assert_eq!(after("gateway4: ").next(), Some("10.20.0.1"));
}

#[test]
fn interfaces_keep_their_order_beyond_ten_and_use_dhcp_without_addresses() {
    let nic = |index: u8| SeedNic {
        mac: format!("52:54:00:00:00:{index:02x}").parse().unwrap(),
        addresses: vec![],
        gateways: Vec::new(),
        dns: vec![],
        mtu: None,
    };
    let seed = Seed { nics: (0..12).map(nic).collect(), ..seed() };
    let text = read(&seed.build().unwrap(), "network-config");
    let document: serde_norway::Value = serde_norway::from_str(&text).unwrap();
    for index in 0..12 {
        let found = &document["ethernets"][format!("eth{index}")];
        assert_eq!(found["match"]["macaddress"], format!("52:54:00:00:00:{index:02x}"));
        assert_eq!(found["dhcp4"], true);
    }
}

#[test]
fn the_same_seed_has_the_same_bytes_and_another_has_not() {
    let disk = seed().build().unwrap();
    assert!(disk == seed().build().unwrap());
    assert!(disk != Seed { hostname: "db".to_owned(), ..seed() }.build().unwrap());
    // Every directory entry carries FAT's first moment, whatever the clock says.
    let file_system = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
    for entry in file_system.root_dir().iter() {
        assert_eq!(entry.unwrap().modified().date.year, 1980);
    }
}

#[test]
fn hostnames_and_sizes_are_checked() {
    for name in ["a", "web-1", "a.b.example", &"a".repeat(63), "0", "Web"] {
        Seed { hostname: name.to_owned(), ..seed() }.build().unwrap();
    }
    for name in ["", "-a", "a-", "a..b", "a.", "a b", "a\nuser: root", "ä", "a_b", &"a".repeat(64), &"a.".repeat(127)]
    {
        let result = Seed { hostname: name.to_owned(), ..seed() }.build();
        assert!(matches!(result, Err(SeedError::Hostname(_))), "{name:?}");
    }
    let result = Seed { instance_id: "a\nb: c".to_owned(), ..seed() }.build();
    assert!(matches!(&result, Err(error @ SeedError::InstanceId(_)) if error.class() == ErrorClass::Invalid));

    let largest = vec![b'x'; 256 << 10];
    let disk = Seed { user_data: Some(largest.clone()), ..seed() }.build().unwrap();
    assert_eq!(read(&disk, "user-data").as_bytes(), largest);
    let result = Seed { user_data: Some(vec![0; (256 << 10) + 1]), ..seed() }.build();
    assert!(matches!(result, Err(SeedError::UserDataTooLarge { .. })));
}

#[test]
fn written_for_its_owner_only_and_over_an_older_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.img");
    Seed::write(b"old", &path, None).unwrap();
    let disk = seed().build().unwrap();
    Seed::write(&disk, &path, Some(200_001)).unwrap();
    assert!(std::fs::read(&path).unwrap() == disk);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o600, 200_001, 200_001));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn user_data_comes_back_as_given(user_data in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let disk = Seed { user_data: Some(user_data.clone()), ..seed() }.build().unwrap();
        let file_system = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
        let mut found = Vec::new();
        file_system.root_dir().open_file("user-data").unwrap().read_to_end(&mut found).unwrap();
        prop_assert_eq!(found, user_data);
    }

    #[test]
    fn texts_that_are_read_back_are_the_texts_given(id in "[a-zA-Z0-9._-]{1,128}", name in "[a-z0-9]{1,63}") {
        let disk = Seed { instance_id: id.clone(), hostname: name.clone(), ..seed() }.build().unwrap();
        let document: serde_norway::Value = serde_norway::from_str(&read(&disk, "meta-data")).unwrap();
        prop_assert_eq!(document["instance-id"].as_str(), Some(id.as_str()));
        prop_assert_eq!(document["local-hostname"].as_str(), Some(name.as_str()));
    }
}
