//! QEMU's own TLS (GnuTLS) accepts our certificates: a disk exported by qemu-nbd is read by
//! qemu-img over mutual TLS on loopback, and nobody else gets at it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gantry_trust::{CredentialReader, Role, TrustError, write_qemu_credentials};
use jiff::Timestamp;
use nix::unistd::{Gid, Uid};

use crate::installation::{Installation, PATIENCE};

const SIZE_BYTES: u64 = 3 << 20;

fn credentials(installation: &Installation, name: &str) -> PathBuf {
    let directory = installation.directory.path().join(format!("creds-{name}"));
    let identity = installation.issue(Role::Qemu, name, Timestamp::now());
    let reader = CredentialReader::Uid(Uid::current().as_raw());
    write_qemu_credentials(&directory, &identity, reader).unwrap();
    directory
}

struct Export {
    process: Child,
    port: u16,
}

impl Drop for Export {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _already_gone = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Exports a file over TLS; the port is taken from the kernel, so a lost race is tried again.
fn export(credentials: &Path, disk: &Path) -> Export {
    fs::File::create(disk).unwrap().set_len(SIZE_BYTES).unwrap();
    for _attempt in 0..5 {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut process = Command::new("qemu-nbd")
            .arg("--object")
            .arg(tls_object("server", credentials))
            .args(["--tls-creds", "tls", "--persistent", "--shared=0", "--format=raw"])
            .args(["--export-name=disk", "--bind=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(disk)
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-nbd is needed for this test: apt-get install qemu-utils");
        let deadline = Instant::now() + PATIENCE;
        while process.try_wait().unwrap().is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Export { process, port };
            }
            assert!(Instant::now() < deadline, "qemu-nbd doesn't listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("qemu-nbd ended five times without serving; see its messages above");
}

fn tls_object(endpoint: &str, credentials: &Path) -> String {
    let directory = credentials.display();
    format!("tls-creds-x509,id=tls,endpoint={endpoint},verify-peer=yes,dir={directory}")
}

fn info(export: &Export, credentials: Option<&Path>, tls_hostname: Option<&str>) -> Output {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json"]);
    let mut image = format!("driver=nbd,host=127.0.0.1,port={},export=disk", export.port);
    if let Some(credentials) = credentials {
        command.arg("--object").arg(tls_object("client", credentials));
        image.push_str(",tls-creds=tls");
    }
    if let Some(name) = tls_hostname {
        image.push_str(&format!(",tls-hostname={name}"));
    }
    command.arg("--image-opts").arg(image).output().unwrap()
}

#[test]
fn qemu_moves_disks_over_our_certificates_and_refuses_others() {
    let ours = Installation::new();
    let theirs = Installation::new();
    let h1 = credentials(&ours, "h1");
    let h2 = credentials(&ours, "h2");
    let export = export(&h1, &ours.directory.path().join("disk.raw"));

    // By address (what is dialled) and by name (what the caller says it expects).
    for tls_hostname in [None, Some("h1")] {
        let answer = info(&export, Some(&h2), tls_hostname);
        let warnings = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(answer.status.success(), "{warnings}");
        assert!(warnings.is_empty(), "{warnings}");
        let json: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(json["virtual-size"], SIZE_BYTES);
    }
    assert!(!info(&export, Some(&h2), Some("h3")).status.success(), "another host's name");
    let foreign = credentials(&theirs, "h2");
    assert!(!info(&export, Some(&foreign), None).status.success(), "a foreign CA");
    assert!(!info(&export, None, None).status.success(), "no TLS at all");
    // A CA both sides trust, but the client's own certificate is of another one.
    let forged = forged_client(&ours, &theirs);
    assert!(!info(&export, Some(&forged), None).status.success(), "a forged client");
    assert!(info(&export, Some(&h2), None).status.success(), "still serving");
}

fn forged_client(trusted: &Installation, forger: &Installation) -> PathBuf {
    let source = credentials(forger, "forged");
    let directory = trusted.directory.path().join("forged");
    fs::create_dir(&directory).unwrap();
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::copy(source.join(name), directory.join(name)).unwrap();
    }
    fs::write(directory.join("ca-cert.pem"), trusted.authority.certificate_pem()).unwrap();
    directory
}

#[test]
fn credentials_are_readable_by_the_reader_only_and_replaced_whole() {
    let installation = Installation::new();
    let directory = installation.directory.path().join("creds");
    let identity = installation.issue(Role::Qemu, "h1", Timestamp::now());
    let (uid, gid) = (Uid::current().as_raw(), Gid::current().as_raw());
    let readers = [(CredentialReader::Uid(uid), 0o500, 0o400), (CredentialReader::Gid(gid), 0o550, 0o440)];
    for (reader, directory_mode, file_mode) in readers {
        write_qemu_credentials(&directory, &identity, reader).unwrap();
        let metadata = fs::metadata(&directory).unwrap();
        assert_eq!(metadata.mode() & 0o777, directory_mode);
        let entries: Vec<_> = fs::read_dir(&directory).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 6);
        for entry in entries {
            let metadata = entry.metadata().unwrap();
            assert_eq!(metadata.mode() & 0o777, file_mode, "{entry:?}");
            assert_eq!((metadata.uid(), metadata.gid()), (uid, gid));
        }
    }
    // Nothing half-made is left beside it.
    let names = fs::read_dir(installation.directory.path()).unwrap();
    assert_eq!(names.count(), 2, "ca and creds");

    let host = installation.issue(Role::Host, "h1", Timestamp::now());
    let error = write_qemu_credentials(&directory, &host, CredentialReader::Uid(uid)).unwrap_err();
    assert!(matches!(error, TrustError::Invalid { .. }), "{error}");
}
