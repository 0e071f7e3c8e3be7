//! A machine's own disk and its copy, against a real QEMU and real servers: they come together and part under the guest's
//! writes, and whatever is interrupted goes on.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gantry_qemu::machine::MachineConfig;
use gantry_qemu::migration::PeerTls;
use gantry_qemu::mirror::{
    Catch, Mirror, MirrorError, Peer, Together, advance, forget_old_changes, has_changes, is_paired, part, unite,
};
use gantry_qemu::qmp::Qmp;
use gantry_qemu::qmp::command::{BlockdevChange, ChildChange, Cont, QueryJobs, QueryNamedBlockNodes, Stop};
use gantry_qemu::snapshot;
use gantry_types::DiskLocation;
use support::pki::{PEER_DN, PEER_NAME, credentials};
use support::{DISK_NODE, Records, TestVm, eventually, soon};

const MIB: u64 = 1 << 20;
/// Of the file: room for the disk's 16 MiB and for states inside it.
const SIZE: u64 = 160 * MIB;
const ID: &str = "0123456789ab";

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    scratch
}

/// A counting guest whose disk is mirrored, and the copy's server.
struct Pair {
    vm: TestVm,
    mirror: Mirror,
    copy: PathBuf,
    server: Option<Server>,
    port: u16,
    tls: Option<PathBuf>,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Server {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).expect("fits")).expect("pid");
        rustix::process::kill_process(pid, signal).expect("kill");
    }
}

impl Pair {
    async fn new(root: &Path, port: u16, tls: bool) -> Self {
        let vm = TestVm::counting_with(root, "vm", mirrored).await;
        let mut pair = Self {
            mirror: Mirror::of(&mirrored_disk(&vm.dir)).expect("mirrored"),
            copy: root.join("copy.img"),
            server: None,
            port,
            tls: tls.then(|| credentials(root, "pki")),
            vm,
        };
        std::fs::File::create(&pair.copy).expect("create").set_len(SIZE).expect("set_len");
        pair.serve().await;
        pair
    }

    async fn serve(&mut self) {
        self.server = None;
        let mark = self.copy.with_extension("pid");
        drop(std::fs::remove_file(&mark));
        let mut command = Command::new("qemu-nbd");
        command.args(["-f", "raw", "-b", "127.0.0.1", "-x", "copy", "--persistent", "--shared", "0"]);
        command.args(["--discard", "unmap", "-p", &self.port.to_string(), "--pid-file"]).arg(&mark);
        if let Some(tls) = &self.tls {
            let credentials = format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir={}", tls.display());
            let authorized = format!("authz-simple,id=peer,identity={}", PEER_DN.replace(',', ",,"));
            command.args(["--object", &credentials, "--object", &authorized]);
            command.args(["--tls-creds", "tls", "--tls-authz", "peer"]);
        }
        let server = Server(command.arg(&self.copy).stdout(Stdio::null()).spawn().expect("qemu-nbd"));
        eventually("the server", async || mark.exists().then_some(())).await;
        self.server = Some(server);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a server")
    }

    fn peer(&self) -> Peer {
        let tls = self.tls.clone().map(|creds_dir| PeerTls { creds_dir, peer_name: PEER_NAME.to_owned() });
        Peer { host: "127.0.0.1".to_owned(), port: self.port, export: "copy".to_owned(), tls }
    }

    async fn step(&self, catch: Catch) -> Result<Together, MirrorError> {
        advance(&self.vm.qmp, &self.mirror, &self.peer(), catch).await
    }

    /// Until little is left; so many bytes were copied at least.
    async fn nearly(&self, catch: Catch) -> u64 {
        let mut most = 0;
        eventually("catching up", async || match self.step(catch).await.expect("goes on") {
            Together::Catching { total_bytes, .. } => {
                most = most.max(total_bytes);
                None
            }
            step => {
                assert_eq!(step, Together::Nearly);
                Some(())
            }
        })
        .await;
        most
    }

    /// With the guest stopped, as a host does it.
    async fn unite(&self) {
        self.vm.qmp.execute(Stop {}).await.expect("stop");
        unite(&self.vm.qmp, &self.mirror).await.expect("united");
        self.vm.qmp.execute(Cont {}).await.expect("cont");
        assert!(is_paired(&self.vm.qmp, &self.mirror).await.expect("paired"));
    }

    async fn pair_up(&self, catch: Catch) -> u64 {
        let copied = self.nearly(catch).await;
        self.unite().await;
        copied
    }

    async fn part(&self) {
        part(&self.vm.qmp, &self.mirror).await.expect("parted");
        assert!(!is_paired(&self.vm.qmp, &self.mirror).await.expect("look"));
        let jobs = self.vm.qmp.execute(QueryJobs {}).await.expect("jobs");
        assert_eq!(jobs, []);
        let nodes = self.vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
        let mut names: Vec<_> = nodes.into_iter().filter_map(|node| node.node_name).collect();
        names.retain(|name| name.starts_with("mirror"));
        names.sort();
        let nodes = self.mirror.nodes();
        assert_eq!(names, [nodes.top(), nodes.none(), nodes.own()]);
    }

    /// A write that failed has stopped the guest.
    async fn stopped_by_a_write(&self) {
        eventually("a failed write", async || (self.vm.status().await == "io-error").then_some(())).await;
    }

    async fn goes_on(&self) {
        self.vm.qmp.execute(Cont {}).await.expect("cont");
        self.vm.counts_on().await;
    }

    /// Ends the machine: all that was acknowledged is on both, and they are the same to the last byte.
    async fn ends_the_same(mut self) {
        self.vm.counts_on().await;
        let acknowledged = self.vm.last_ack().expect("acknowledgements");
        self.vm.quit().await;
        self.server = None;
        let read = |path: &Path| std::fs::read(path).expect("read");
        assert!(read(&self.mirror.file) == read(&self.copy), "disk and copy differ");
        let copy = self.copy.with_extension("qcow2");
        std::fs::rename(&self.copy, &copy).expect("rename");
        let checked = Command::new("qemu-img").args(["check", "-q"]).arg(&copy).status().expect("qemu-img");
        assert!(checked.success(), "the copy is a sound disk");
        assert!(Records::read(&copy).last() >= acknowledged, "the copy has what was acknowledged");
    }
}

fn mirrored_disk(dir: &Path) -> gantry_qemu::machine::Disk {
    let mut disk = TestVm::config(dir, false).disks.remove(0);
    let file = dir.join("disk.qcow2");
    disk.location = DiskLocation::Mirrored { file, size: SIZE, id: ID.to_owned() };
    disk
}

fn mirrored(config: &mut MachineConfig) {
    config.disks = vec![mirrored_disk(&config.sockets.0)];
    let file = std::fs::File::options().write(true).open(config.sockets.0.join("disk.qcow2")).expect("open");
    file.set_len(SIZE).expect("set_len");
}

#[tokio::test]
async fn all_of_a_disk_is_copied_while_its_guest_writes_and_then_every_write() {
    let scratch = scratch();
    let pair = Pair::new(scratch.path(), 42_310, true).await;
    assert!(!is_paired(&pair.vm.qmp, &pair.mirror).await.expect("look"));
    let unknown = pair.step(Catch::Changed).await.expect_err("nothing is noted");
    assert!(matches!(unknown, MirrorError::NothingNoted), "{unknown}");
    pair.vm.counts_on().await;
    pair.pair_up(Catch::All).await;
    assert_eq!(pair.step(Catch::All).await.expect("look"), Together::Paired);
    pair.vm.counts_on().await;
    let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&pair.copy).expect("metadata")) * 512;
    assert!(allocated < SIZE / 4, "what is empty takes no room in the copy: {allocated}");
    // A state of the whole machine goes to both, too.
    snapshot::save(&pair.vm.qmp, &[DISK_NODE], "state", Duration::from_secs(60)).await.expect("saved");
    pair.vm.counts_on().await;
    pair.ends_the_same().await;
}

#[tokio::test]
async fn a_write_fails_without_its_peer_and_only_what_changed_is_copied_again() {
    let scratch = scratch();
    let mut pair = Pair::new(scratch.path(), 42_311, false).await;
    pair.vm.counts_on().await;
    let whole = pair.pair_up(Catch::All).await;
    pair.vm.counts_on().await;
    for round in 0..2 {
        for _ in 0..2 {
            forget_old_changes(&pair.vm.qmp, &pair.mirror).await.expect("forgotten");
        }
        let mut events = pair.vm.qmp.events();
        pair.server = None;
        let bad = |data: &serde_json::Value| data["node-name"].as_str().is_some_and(|name| pair.mirror.is_peer(name));
        events.wait_event("QUORUM_REPORT_BAD", bad, soon()).await.expect("the peer's failure is told");
        pair.stopped_by_a_write().await;
        if round == 1 {
            // To go on without parting is of no use.
            pair.vm.qmp.execute(Cont {}).await.expect("cont");
            pair.stopped_by_a_write().await;
        }
        for _ in 0..2 {
            pair.part().await;
        }
        assert!(has_changes(&pair.vm.qmp, &pair.mirror).await.expect("look"));
        pair.goes_on().await;
        let gone = pair.step(Catch::Changed).await.expect_err("nobody is there");
        assert!(matches!(gone, MirrorError::Unreachable { .. }), "{gone}");
        pair.serve().await;
        let again = pair.pair_up(Catch::Changed).await;
        assert!(again < whole / 4, "{again} of {whole} bytes");
    }
    pair.ends_the_same().await;
}

#[tokio::test]
async fn a_silent_peer_holds_nobody_up() {
    let scratch = scratch();
    let mut pair = Pair::new(scratch.path(), 42_312, false).await;
    pair.vm.counts_on().await;
    pair.pair_up(Catch::All).await;
    pair.vm.counts_on().await;
    pair.server().signal(rustix::process::Signal::STOP);
    pair.part().await;
    pair.stopped_by_a_write().await;
    pair.goes_on().await;
    let silent = pair.step(Catch::Changed).await.expect_err("it does not greet");
    assert!(matches!(silent, MirrorError::Unreachable { .. }), "{silent}");
    pair.vm.counts_on().await;

    // While it catches up, too; and the guest does not notice.
    for catch in [Catch::All, Catch::Changed] {
        pair.serve().await;
        pair.step(catch).await.expect("begun");
        pair.server().signal(rustix::process::Signal::STOP);
        pair.vm.counts_on().await;
        pair.part().await;
        pair.vm.counts_on().await;
        assert_eq!(has_changes(&pair.vm.qmp, &pair.mirror).await.expect("look"), catch == Catch::Changed);
        pair.serve().await;
        pair.pair_up(Catch::All).await;
        pair.part().await;
        drop(pair.vm.qmp.execute(Cont {}).await);
    }
    pair.serve().await;
    pair.pair_up(Catch::Changed).await;
    pair.ends_the_same().await;
}

#[tokio::test]
async fn whatever_is_interrupted_goes_on() {
    let scratch = scratch();
    let pair = Pair::new(scratch.path(), 42_313, false).await;
    pair.vm.counts_on().await;
    // Dropped after each of its commands in turn, all the way to the pair and back again.
    let mut steps = 0;
    while !is_paired(&pair.vm.qmp, &pair.mirror).await.expect("look") {
        interrupted(&pair.vm.qmp, steps % 60, async {
            if matches!(pair.step(Catch::All).await, Ok(Together::Nearly)) {
                pair.vm.qmp.execute(Stop {}).await.expect("stop");
                drop(unite(&pair.vm.qmp, &pair.mirror).await);
            }
        })
        .await;
        pair.vm.qmp.execute(Cont {}).await.expect("cont");
        steps += 1;
        assert!(steps < 2000, "it never gets there");
    }
    pair.vm.counts_on().await;
    for commands in 0..30 {
        interrupted(&pair.vm.qmp, commands, async { part(&pair.vm.qmp, &pair.mirror).await.expect("parted") }).await;
    }
    pair.part().await;
    drop(pair.vm.qmp.execute(Cont {}).await);
    pair.vm.counts_on().await;

    // Half united: both the peer and the stand-in are there, and the peer's vote is not needed.
    pair.nearly(Catch::Changed).await;
    let change = ChildChange::Node(pair.mirror.nodes().peer());
    pair.vm.qmp.execute(BlockdevChange { parent: pair.mirror.nodes().top(), change }).await.expect("added");
    assert!(!is_paired(&pair.vm.qmp, &pair.mirror).await.expect("look"));
    pair.vm.counts_on().await;
    pair.nearly(Catch::Changed).await;
    pair.unite().await;
    pair.ends_the_same().await;
}

/// Runs until so many commands were answered, and leaves it there.
async fn interrupted(qmp: &Qmp, commands: u32, work: impl Future<Output = ()>) {
    let mut work = Box::pin(work);
    let mut polls = 0;
    let counted = std::future::poll_fn(|context| {
        polls += 1;
        if polls > commands + 1 {
            return std::task::Poll::Ready(());
        }
        work.as_mut().poll(context)
    });
    counted.await;
    drop(work);
    // What was sent is answered before the next begins.
    qmp.execute(QueryJobs {}).await.expect("jobs");
}

#[tokio::test]
async fn errors_leave_the_disk_alone() {
    let scratch = scratch();
    let mut pair = Pair::new(scratch.path(), 42_314, false).await;
    pair.vm.counts_on().await;
    pair.vm.qmp.execute(Stop {}).await.expect("stop");
    let early = unite(&pair.vm.qmp, &pair.mirror).await.expect_err("nothing to unite with");
    assert!(matches!(early, MirrorError::NotCaughtUp), "{early}");
    pair.vm.qmp.execute(Cont {}).await.expect("cont");
    // A copy that is too small to be one.
    std::fs::File::options().write(true).open(&pair.copy).expect("open").set_len(MIB).expect("set_len");
    pair.serve().await;
    let failed = loop {
        match pair.step(Catch::All).await {
            Ok(Together::Nearly | Together::Paired) => panic!("it can't be"),
            Ok(Together::Catching { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, MirrorError::Copy { .. } | MirrorError::Qmp(_)), "{failed}");
    pair.part().await;
    pair.vm.counts_on().await;
    std::fs::File::options().write(true).open(&pair.copy).expect("open").set_len(SIZE).expect("set_len");
    pair.serve().await;
    pair.pair_up(Catch::All).await;
    pair.ends_the_same().await;
}
