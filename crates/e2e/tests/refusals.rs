//! Input that is wrong, hostile or simply too much: it is refused with a reason and a remedy, and leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::{Lab, Ran, Workload, guest_image, qemus};
use gantry_types::{ByteSize, ErrorClass, Image, OperationPhase, Vm, VmPhase};

/// Says why, in one `error:` line and without escape sequences.
fn explained(ran: Ran, codes: &[i32]) -> Result<Ran> {
    ensure!(codes.contains(&ran.code), "`gantry {}` ended with {}: {}{}", ran.line, ran.code, ran.stdout, ran.stderr);
    ensure!(ran.stderr.contains("error: "), "`gantry {}` does not say why: {:?}", ran.line, ran.stderr);
    ensure!(!ran.stderr.contains('\u{1b}'), "escape sequences in {:?}", ran.stderr);
    Ok(ran)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_hostile_and_too_large_input_is_refused_and_leaves_nothing() -> Result<()> {
    let lab = Lab::up(1).await?;
    let scratch = tempfile::tempdir()?;
    hostile_images(&lab, scratch.path()).await?;
    lab.import_guest().await?;
    wrong_commands(&lab).await?;
    wrong_files(&lab, scratch.path()).await?;
    too_little_memory(&lab).await?;
    two_clients(&lab).await?;
    let vms: Vec<Vm> = lab.client().list(None).await?;
    ensure!(vms.is_empty(), "refused requests left VMs: {vms:?}");
    lab.passed();
    Ok(())
}

async fn hostile_images(lab: &Lab, scratch: &Path) -> Result<()> {
    let guest = guest_image()?;
    let image = |name: &str| scratch.join(name);
    // With -u nothing is opened to make it.
    let backing = image("backing.qcow2");
    let create = |words: &[&str], path: &Path, size: &str| -> Result<()> {
        let mut command = Command::new("qemu-img");
        let made = command.args(["create", "-q", "-f", "qcow2"]).args(words).arg(path).arg(size).status()?;
        ensure!(made.success(), "{command:?}: {made}");
        Ok(())
    };
    create(&["-u", "-F", "raw", "-b", "/etc/passwd"], &backing, "1M")?;
    let huge = image("huge.qcow2");
    create(&[], &huge, "1P")?;
    let bytes = fs::read(&guest)?;
    let truncated = image("truncated.qcow2");
    fs::write(&truncated, &bytes[..bytes.len() / 3])?;
    let corrupt = image("corrupt.qcow2");
    let mut damaged = bytes.clone();
    // The L1 table's place is in the header at byte 40; it then points to nowhere.
    let table = usize::try_from(u64::from_be_bytes(damaged[40..48].try_into()?))?;
    damaged[table..table + 8].copy_from_slice(&0x8000_7fff_ffff_0000u64.to_be_bytes());
    fs::write(&corrupt, damaged)?;
    let noise = image("noise.img");
    fs::write(&noise, b"this is not a disk".repeat(1000))?;

    for path in [backing, huge, truncated, corrupt, noise] {
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let ran = lab.gantry(&["image", "import", &name, &path.to_string_lossy()]).await?;
        let ran = explained(ran, &[1, 7])?;
        eprintln!("{}", ran.stderr.trim());
        not_ready(lab, &name).await?;
    }
    let wrong = "0".repeat(64);
    let ran = lab.gantry(&["image", "import", "lying", &guest.to_string_lossy(), "--sha256", &wrong]).await?;
    let ran = explained(ran, &[1, 7])?;
    ensure!(ran.stderr.to_lowercase().contains("sha"), "it does not name the checksum: {}", ran.stderr);
    not_ready(lab, "lying").await?;
    let images: Vec<Image> = lab.client().list(None).await?;
    for image in images {
        lab.gantry(&["image", "delete", image.metadata.name.as_str()]).await?.ok()?;
    }
    Ok(())
}

async fn not_ready(lab: &Lab, name: &str) -> Result<()> {
    let vm = lab.gantry(&["vm", "create", "from-it", "--image", name, "--memory", "64MiB"]).await?;
    explained(vm, &[1, 3, 4, 7])?;
    match lab.client().get::<Vm>("from-it").await {
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(()),
        Ok(vm) if vm.status.phase == VmPhase::Failed => lab.gantry(&["vm", "delete", "from-it"]).await?.ok().map(drop),
        other => anyhow::bail!("a VM of a refused image: {other:?}"),
    }
}

async fn wrong_commands(lab: &Lab) -> Result<()> {
    let long = "n".repeat(300);
    let commands: [(&[&str], &[i32]); 26] = [
        (&["vm", "create", "Upper", "--image", "guest"], &[2, 7]),
        (&["vm", "create", "a/b", "--image", "guest"], &[2, 7]),
        (&["vm", "create", "../../etc", "--image", "guest"], &[2, 7]),
        (&["vm", "create", "", "--image", "guest"], &[2, 7]),
        (&["vm", "create", &long, "--image", "guest"], &[2, 7]),
        (&["vm", "create", "x", "--image", "guest", "--cpus", "0"], &[7]),
        (&["vm", "create", "x", "--image", "guest", "--cpus", "-1"], &[2]),
        (&["vm", "create", "x", "--image", "guest", "--memory", "lots"], &[2]),
        (&["vm", "create", "x", "--image", "guest", "--memory", "1MiB"], &[7]),
        (&["vm", "create", "x", "--image", "guest", "--memory", "999999999999999999999TiB"], &[2]),
        (&["vm", "create", "x", "--image", "guest", "--disk", "1MiB"], &[7]),
        (&["vm", "create", "x", "--image", "nosuch"], &[3, 7]),
        (&["vm", "create", "x", "--image", "guest", "--network", "nosuch"], &[3, 7]),
        (&["vm", "create", "x", "--image", "guest", "--network", "default,ip=8.8.8.8"], &[7]),
        (&["vm", "create", "x", "--image", "guest", "--cpu-model", "max,+evil"], &[7]),
        (&["network", "create", "x", "--subnet", "10.1.0.0/33"], &[2, 7]),
        (&["network", "create", "x", "--subnet", "10.1.0.0/24", "--mtu", "60000"], &[2, 7]),
        (&["network", "create", "x", "--subnet", "10.1.0.0/24", "--gateway", "10.2.0.1"], &[2, 7]),
        (&["network", "create", "x", "--subnet", "10.1.0.0/24", "--vni", "0"], &[2, 7]),
        (&["network", "create", "x", "--subnet", "10.1.0.0/24", "--type", "bridged"], &[2, 7]),
        (&["security-group", "allow", "nosuch", "--tcp", "80"], &[3]),
        (&["security-group", "allow", "x", "--tcp", "443-80"], &[2]),
        (&["vm", "show", "nosuch"], &[3]),
        (&["vm", "start", "nosuch"], &[3]),
        (&["get", "vm", "../tokens/admin"], &[3, 7]),
        (&["frobnicate"], &[2]),
    ];
    for (command, codes) in commands {
        explained(lab.gantry(command).await?, codes)?;
    }
    Ok(())
}

async fn wrong_files(lab: &Lab, scratch: &Path) -> Result<()> {
    let spec = "spec: {cpus: 1, memory: 64MiB, disk: 16MiB}";
    let files = [
        ("not-yaml", "kind: vm\n  metadata: [".to_owned()),
        ("not-an-object", "- 1\n- 2\n".to_owned()),
        ("no-kind", format!("metadata: {{name: x}}\n{spec}\n")),
        ("wrong-kind", format!("kind: spaceship\nmetadata: {{name: x}}\n{spec}\n")),
        ("no-name", format!("kind: vm\nmetadata: {{}}\n{spec}\n")),
        ("bad-name", format!("kind: vm\nmetadata: {{name: 'a b'}}\n{spec}\n")),
        (
            "unknown-field",
            "kind: vm\nmetadata: {name: x}\nspec: {cpus: 1, memory: 64MiB, disk: 16MiB, gpus: 9}\n".into(),
        ),
        ("wrong-type", "kind: vm\nmetadata: {name: x}\nspec: {cpus: many, memory: 64MiB, disk: 16MiB}\n".into()),
        ("negative", "kind: vm\nmetadata: {name: x}\nspec: {cpus: -4, memory: 64MiB, disk: 16MiB}\n".into()),
        ("bad-label", format!("kind: vm\nmetadata: {{name: x, labels: {{'a b c': '*'}}}}\n{spec}\n")),
        ("bomb", bomb()),
        ("binary", "\u{0}\u{1}\u{2}\u{ffff}".to_owned()),
    ];
    for (name, text) in files {
        let path = scratch.join(format!("{name}.yaml"));
        fs::write(&path, text)?;
        let ran = lab.gantry(&["apply", "-f", &path.to_string_lossy()]).await?;
        explained(ran, &[1, 2, 7]).with_context(|| name.to_owned())?;
    }
    let missing = lab.gantry(&["apply", "-f", "/nonexistent.yaml"]).await?;
    explained(missing, &[1, 2, 7])?;
    Ok(())
}

/// Aliases that grow to a billion entries.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    text
}

async fn too_little_memory(lab: &Lab) -> Result<()> {
    let ran = lab.gantry(&["vm", "create", "giant", "--image", "guest", "--memory", "3TiB"]).await?;
    let ran = explained(ran, &[1, 4, 7])?;
    ensure!(ran.stderr.contains("host-1") && ran.stderr.contains("memory"), "the refusal: {}", ran.stderr);
    let giant: Vm = lab.client().get("giant").await?;
    ensure!(giant.status.phase == VmPhase::Failed && giant.status.host.is_none(), "{:?}", giant.status);
    lab.gantry(&["vm", "delete", "giant"]).await?.ok().map(drop)
}

async fn two_clients(lab: &Lab) -> Result<()> {
    lab.gantry(&["vm", "create", "shared", "--disk", "16MiB", "--memory", "64MiB", "--stopped"]).await?.ok()?;
    let (mut mine, mut yours): (Vm, Vm) = (lab.client().get("shared").await?, lab.client().get("shared").await?);
    mine.spec.memory = ByteSize::mib(96);
    yours.spec.memory = ByteSize::mib(128);
    lab.client().update(&mine, &WriteQuery::default()).await?;
    let refused = lab.client().update(&yours, &WriteQuery::default()).await.err().context("the second change won")?;
    ensure!(refused.class == ErrorClass::Conflict && refused.remedy.is_some(), "{refused:?}");
    let now: Vm = lab.client().get("shared").await?;
    ensure!(now.spec.memory == ByteSize::mib(96));

    // Of ten that start from the same state exactly one wins.
    let mut racing = tokio::task::JoinSet::new();
    for mib in 0..10 {
        let (client, mut vm) = (lab.client().clone(), now.clone());
        vm.spec.memory = ByteSize::mib(200 + mib);
        racing.spawn(async move { client.update(&vm, &WriteQuery::default()).await.is_ok() });
    }
    let won = racing.join_all().await.into_iter().filter(|won| *won).count();
    ensure!(won == 1, "{won} of ten changes from one revision were accepted");
    lab.gantry(&["vm", "delete", "shared"]).await?.ok().map(drop)
}

/// A small file system in place of a host's pool, removed before the lab is.
struct SmallPool(PathBuf);

impl SmallPool {
    fn mount(path: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=711"), "pool"])
            .arg(&path)
            .status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(Self(path))
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg("-l").arg(&self.0).status() {
            eprintln!("umount {}: {error}", self.0.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_what_needs_it_and_nothing_else() -> Result<()> {
    let lab = Lab::up(1).await?;
    lab.cable("unplug", 1).await?;
    let pool = SmallPool::mount(lab.room().host_directory(1).join("pool"), "8m")?;
    lab.cable("plug", 1).await?;
    lab.all_hosts_ready().await?;
    lab.import_guest().await?;

    let vm = lab.guest("large", &Workload::default())?;
    let created = lab.client().create(&vm, &WriteQuery::default()).await?;
    let ended = lab.finished(&created).await?;
    ensure!(ended.status.phase == OperationPhase::Failed, "{:?}", ended.status);
    let problem = ended.status.error.context("it failed without a reason")?;
    ensure!(problem.detail.contains("space") || problem.detail.contains("room"), "unclear: {}", problem.detail);
    let vm: Vm = lab.client().get("large").await?;
    ensure!(vm.status.phase == VmPhase::Failed && vm.status.reason.is_some(), "{:?}", vm.status);
    ensure!(qemus(vm.metadata.uuid).is_empty());

    // The host still works for what fits.
    lab.gantry(&["vm", "create", "small", "--disk", "1MiB", "--memory", "64MiB"]).await?.ok()?;
    lab.runs_in_one_place("small").await?;
    lab.gantry(&["vm", "delete", "small", "large"]).await?.ok()?;
    lab.passed();
    drop(pool);
    Ok(())
}
