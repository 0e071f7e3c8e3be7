//! Whether an accelerator boots an ordinary guest: `/dev/kvm` can exist, open, and then spin for ever in
//! the firmware. So a machine of the usual type is started, its firmware loads a boot sector from a disk
//! as for any guest, and the boot sector ends QEMU with an agreed status.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::ProbeError;
use crate::machine::Accelerator;

/// SeaBIOS needs half a second under TCG, less under a working KVM.
pub const KVM_BOOT_LIMIT: Duration = Duration::from_secs(5);

/// What the boot sector writes to the `isa-debug-exit` device, which ends QEMU with 2 × value + 1.
const EXIT_VALUE: u8 = 0x2a;
const EXIT_STATUS: i32 = EXIT_VALUE as i32 * 2 + 1;
const EXIT_PORT: u16 = 0xf4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootProbe {
    Boots,
    /// It did not get as far as the boot sector.
    DoesNot {
        reason: String,
    },
}

impl BootProbe {
    pub fn boots(&self) -> bool {
        *self == Self::Boots
    }
}

/// `mov dx, EXIT_PORT; mov al, EXIT_VALUE; out dx, al; hlt`, and the mark of a boot sector.
fn boot_sector() -> [u8; 512] {
    let [port_low, port_high] = EXIT_PORT.to_le_bytes();
    let code = [0xba, port_low, port_high, 0xb0, EXIT_VALUE, 0xee, 0xf4];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Boots an x86-64 machine with `binary` under `accelerator`, for at most `limit`. `scratch_dir` takes the
/// boot image for that long.
pub async fn boots_under(
    binary: &Path,
    accelerator: Accelerator,
    scratch_dir: &Path,
    limit: Duration,
) -> Result<BootProbe, ProbeError> {
    let accel = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    };
    let image = scratch_dir.join(format!("boot-probe-{}-{accel}.raw", std::process::id()));
    write_image(&image).map_err(ProbeError::Image)?;
    let outcome = run(binary, accel, &image, limit).await;
    std::fs::remove_file(&image).map_err(ProbeError::Image)?;
    outcome
}

fn write_image(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(&boot_sector())?;
    // A whole cylinder, below which firmware may take a disk for unusable.
    file.set_len(1 << 20)
}

async fn run(binary: &Path, accel: &str, image: &Path, limit: Duration) -> Result<BootProbe, ProbeError> {
    let failed = |source| ProbeError::Run { binary: binary.to_owned(), source };
    let drive = serde_json::json!({"driver": "raw", "node-name": "probe", "read-only": true,
        "file": {"driver": "file", "filename": image.to_string_lossy(), "read-only": true}});
    let child = Command::new(binary)
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "q35", "-accel", accel, "-m", "64M", "-no-reboot"])
        .args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4")])
        .args(["-blockdev", &drive.to_string()])
        .args(["-device", "virtio-blk-pci,drive=probe,bootindex=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    // When the limit passes, the future is dropped, and with it the process.
    let Ok(output) = timeout(limit, child.wait_with_output()).await else {
        return Ok(BootProbe::DoesNot {
            reason: format!("the firmware did not load a boot sector within {} s", limit.as_secs()),
        });
    };
    let output = output.map_err(failed)?;
    if output.status.code() == Some(EXIT_STATUS) {
        return Ok(BootProbe::Boots);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Ok(BootProbe::DoesNot { reason: format!("QEMU ended with {}: {}", output.status, stderr.trim()) })
}
