//! Backups of a guest that writes durably: every write that was acknowledged before a backup began is in it, whoever dies
//! meanwhile; and what rots in a repository is found.

#[path = "../../backup/tests/s3_server/mod.rs"]
mod s3_server;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, Workload, disk, eventually, qemus};
use gantry_types::{Backup, BackupPhase, Vm};
use s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};

const VM: &str = "web";

async fn backup(lab: &Lab, short: &str) -> Result<Backup> {
    Ok(lab.client().get(&format!("{VM}-{short}")).await?)
}

/// Restores it as a VM that stays off, and looks at its disk.
async fn restored_disk(lab: &Lab, backup: &str, name: &str, acknowledged: u64) -> Result<u64> {
    lab.gantry(&["backup", "restore", VM, backup, "--as", name, "--no-start"]).await?.ok()?;
    let vm: Vm = lab.client().get(name).await?;
    let report = disk::check(&lab.disk(host_of(&vm)?, vm.metadata.uuid), acknowledged)?;
    Ok(report.last)
}

/// The files in a host's pool that are disks.
fn disks(lab: &Lab, host: u8) -> Result<usize> {
    let directory = lab.disk(host, uuid::Uuid::nil());
    let directory = directory.parent().context("it is in a directory")?;
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    Ok(names.iter().filter(|name| name.to_string_lossy().ends_with(".qcow2")).count())
}

/// The largest chunk of a repository: surely one of the disk's content.
fn largest_chunk(repository: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for directory in std::fs::read_dir(repository.join("chunks"))? {
        for chunk in std::fs::read_dir(directory?.path())? {
            let path = chunk?.path();
            found.push((std::fs::metadata(&path)?.len(), path));
        }
    }
    Ok(found.into_iter().max().context("it has chunks")?.1)
}

/// What only the repositories know is taken in from them: an encrypted bucket, and a directory.
async fn forgotten_and_adopted(lab: &Lab, directory: &str) -> Result<()> {
    lab.gantry(&["repository", "create", "kept", "--path", directory]).await?.ok()?;
    for (short, repository) in [("interrupted", "vault"), ("full", "kept")] {
        let before = backup(lab, short).await?;
        lab.gantry(&["backup", "delete", VM, short, "--force"]).await?.ok()?;
        let adopted = lab.gantry(&["repository", "adopt", repository]).await?.ok()?;
        ensure!(adopted.contains(&format!("backup/{VM}-{short} adopted")), "{adopted}");
        let after = backup(lab, short).await?;
        ensure!(after.metadata.uuid == before.metadata.uuid && after.spec.repository == repository, "{after:?}");
        let was = (&before.status.machine, &before.status.disks, before.status.taken_at);
        ensure!((&after.status.machine, &after.status.disks, after.status.taken_at) == was, "{after:?}");
        let boots = lab.gantry(&["backup", "files", VM, "/boots", "--backup", short]).await?.ok()?;
        ensure!(boots.trim() == "1", "the file in the adopted backup says '{boots}'");
    }
    Ok(())
}

/// An encrypted repository in a bucket. Another passphrase does not open it.
async fn make_vault(lab: &Lab, server: &S3Server, place: &Path) -> Result<()> {
    let file = |name: &str, content: &str| -> Result<String> {
        let path = place.join(name);
        std::fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (key, right, wrong) =
        (file("key", SECRET_ACCESS_KEY)?, file("right", "correct horse\n")?, file("wrong", "incorrect horse\n")?);
    for (name, passphrase, code) in [("vault", right, 0), ("other", wrong, 7)] {
        let bucket = ["--bucket", BUCKET, "--prefix", "lab", "--endpoint", &server.endpoint];
        let keys = ["--access-key-id", ACCESS_KEY_ID, "--secret-access-key-file", &key];
        let create = ["repository", "create", name, "--passphrase-file", &passphrase];
        lab.gantry(&[&create[..], &bucket, &keys].concat()).await?.ok()?;
        let opened = lab.gantry(&["repository", "check", name]).await?.expect_code(code)?;
        ensure!(code == 0 || opened.stderr.contains("the passphrase does not open"), "{}", opened.stderr);
    }
    let shown = lab.gantry(&["repository", "show", "vault"]).await?.ok()?;
    ensure!(!shown.contains(SECRET_ACCESS_KEY) && !shown.contains("correct horse"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writing_guest_is_backed_up_restored_and_its_backups_are_verified() -> Result<()> {
    let lab = Lab::up(1).await?;
    let observer = Observer::listen(lab.outside())?;
    let place = tempfile::tempdir()?;
    let repository = place.path().join("backup");
    let to = repository.to_str().context("its path is text")?;
    lab.import_guest().await?;
    let workload = Workload { writes_to: Some(observer.address()), ..Workload::default() };
    let guest = lab.run_vm(VM, None, &workload).await?;
    // Something that compresses well, so that the largest chunk is one of the guest's own disk.
    let content: Vec<u8> = (0..1_u64 << 20).flat_map(|number| number.to_le_bytes()).collect();
    let (written, read) = (place.path().join("data.raw"), place.path().join("again.raw"));
    let [written_to, read_to] = [&written, &read].map(|path| path.to_string_lossy().into_owned());
    std::fs::write(&written, &content)?;
    let import = ["volume", "import", "data", &written_to, "--format", "raw", "--pool", "local-host-1"];
    lab.gantry(&import).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    observer.goes_on(100).await?;

    let acknowledged = observer.last();
    lab.gantry(&["backup", "create", VM, "full", "--to", to]).await?.ok()?;
    let full = backup(&lab, "full").await?;
    ensure!(full.status.phase == BackupPhase::Ready && full.status.frozen_ms.is_some(), "{full:?}");
    let disks_of: Vec<_> = full.status.disks.iter().map(|disk| disk.name.as_str()).collect();
    ensure!(disks_of == ["disk", "data"], "{disks_of:?}");
    observer.goes_on(100).await?;
    let later = observer.last();
    lab.gantry(&["backup", "create", VM, "changes", "--to", to, "--no-quiesce"]).await?.ok()?;
    let changes = backup(&lab, "changes").await?;
    let (all, changed) = (full.status.read.context("read")?.bytes(), changes.status.read.context("read")?.bytes());
    println!(
        "full: {all} bytes read, {:?} written, frozen {:?} ms; changes: {changed} read, {:?} written",
        full.status.written, full.status.frozen_ms, changes.status.written
    );
    ensure!(changed < all / 2, "{changed} bytes read for what had changed, {all} for all");

    let layout = lab.room().layout();
    let server = S3Server::start_in(&layout.controller_namespace(), &layout.controller_address().to_string());
    make_vault(&lab, &server, place.path()).await?;
    // An agent that dies while it reads, into a bucket: the guest goes on, its successor's backup is whole, and nothing is left.
    let pids: Vec<_> = qemus(guest.metadata.uuid).iter().map(|qemu| qemu.pid).collect();
    let before = disks(&lab, 1)?;
    let during = observer.last();
    lab.gantry(&["backup", "create", VM, "interrupted", "--to", "vault", "--no-wait"]).await?.ok()?;
    lab.crash_agent(1)?;
    lab.resume().await?;
    eventually("the operation is over", SETTLE_LIMIT, async || {
        let now: Vm = lab.client().get(VM).await?;
        ensure!(now.status.operation.is_none(), "{:?} is at work", now.status.operation);
        Ok(())
    })
    .await?;
    ensure!(backup(&lab, "interrupted").await?.status.phase == BackupPhase::Ready, "it is whole");
    ensure!(qemus(guest.metadata.uuid).iter().map(|qemu| qemu.pid).collect::<Vec<_>>() == pids, "its QEMU went on");
    ensure!(disks(&lab, 1)? == before, "no scratch file is left");
    observer.goes_on(100).await?;

    for (short, at_least) in [("full", acknowledged), ("changes", later), ("interrupted", during)] {
        let name = format!("from-{short}");
        let last = restored_disk(&lab, short, &name, at_least).await?;
        println!("{short}: {at_least} acknowledged before, {last} is the last in it");
    }
    let restore = ["backup", "restore-volume", VM, "data", "full", "--as", "again", "--pool", "local-host-1"];
    lab.gantry(&restore).await?.ok()?;
    lab.gantry(&["volume", "export", "again", &read_to]).await?.ok()?;
    ensure!(std::fs::read(&read)? == content, "the volume is not what it was");
    let missing = lab.gantry(&["backup", "restore-volume", VM, "logs", "--pool", "local-host-1"]).await?;
    ensure!(missing.expect_code(7)?.stderr.contains("it has: disk, data"), "what the backup has is named");
    lab.gantry(&["vm", "start", "from-changes"]).await?.ok()?;
    lab.serving("from-changes").await?;
    for short in ["changes", "interrupted"] {
        let boots = lab.gantry(&["backup", "files", VM, "/boots", "--backup", short]).await?.ok()?;
        ensure!(boots.trim() == "1", "the file in the backup '{short}' says '{boots}'");
    }
    let named = lab.gantry(&["repository", "delete", "vault"]).await?.expect_code(4)?;
    ensure!(named.stderr.contains("backup 'web-interrupted'"), "{}", named.stderr);
    forgotten_and_adopted(&lab, to).await?;
    let listed = lab.gantry(&["backup", "files", VM, "/"]).await?.ok()?;
    ensure!(listed.lines().any(|line| line == "seq") && listed.lines().any(|line| line == "lost+found/"), "{listed}");
    let missing = lab.gantry(&["backup", "files", VM, "/nowhere"]).await?.expect_code(3)?;
    ensure!(missing.stderr.contains("/nowhere"), "{}", missing.stderr);

    lab.gantry(&["backup", "verify", VM, "full"]).await?.ok()?;
    let chunk = largest_chunk(&repository)?;
    let mut stored = std::fs::read(&chunk)?;
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    std::fs::write(&chunk, stored)?;
    let damaged = lab.gantry(&["backup", "verify", VM, "full"]).await?.expect_code(1)?;
    ensure!(damaged.stderr.contains("parts are lost") && damaged.stderr.contains("disk 'disk'"), "{}", damaged.stderr);
    let lost = backup(&lab, "full").await?.status.lost;
    ensure!(lost.len() == 1 && lost[0].length_bytes > 0, "{lost:?}");
    let refused = lab.gantry(&["backup", "restore", VM, "full", "--as", "never"]).await?.expect_code(4)?;
    ensure!(refused.stderr.contains("gantry backup show web full"), "{}", refused.stderr);

    lab.gantry(&["backup", "delete", VM, "full", "changes", "interrupted"]).await?.ok()?;
    ensure!(largest_chunk(&repository).is_err(), "no chunk is kept for nobody");
    lab.gantry(&["repository", "delete", "vault", "other", "kept"]).await?.ok()?;
    lab.runs_in_one_place(VM).await?;
    observer.goes_on(50).await?;
    lab.passed();
    Ok(())
}
