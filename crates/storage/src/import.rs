//! Turns a hostile image file into a standalone qcow2 in the image store.
//!
//! ```text
//! file --stage--> private copy --inspect--> known and safe --check--> consistent --convert-->
//!      qcow2 --inspect, hash, publish--> <sha256>.qcow2
//! ```
//!
//! Nothing but this process reads the file before it was inspected, and `qemu-img` is always told
//! the format. A failure or a dropped future at any step leaves nothing behind; a crash leaves a
//! staging directory that the next sweep removes.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_types::ImageFormat;
use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::decompress::{StageJob, Staged};
use crate::digest::Sha256Digest;
use crate::error::StorageError;
use crate::image_store::{IMAGE_FILE_MODE, ImageStore, hash_file};
use crate::probe::{self, Compression, Inspection, Refusal};
use crate::qemu_img::{Run, RunLimits, WORKER_UID, closed_source};
use crate::staging::StagingDir;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const INPUT: &str = "input";
const OUTPUT: &str = "output.qcow2";
/// However little was supplied, this much output is no bomb.
const OUTPUT_GRACE_BYTES: u64 = GIB;

/// Bounds on one import.
#[derive(Debug, Clone)]
pub struct ImportLimits {
    /// The disk a guest would see.
    pub max_virtual_bytes: u64,
    /// The file after unpacking, holes included.
    pub max_unpacked_bytes: u64,
    /// The resulting qcow2 file.
    pub max_output_bytes: u64,
    /// Data out of a decompressor or of `qemu-img`, against what went in.
    pub max_ratio: u64,
    /// Memory and CPU time of one `qemu-img`.
    pub max_address_space_bytes: u64,
    pub max_cpu_seconds: u64,
    /// Wall-clock time of one `qemu-img`.
    pub max_duration: Duration,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self {
            max_virtual_bytes: 16 * TIB,
            max_unpacked_bytes: 2 * TIB,
            max_output_bytes: 2 * TIB,
            max_ratio: 200,
            max_address_space_bytes: 4 * GIB,
            max_cpu_seconds: 3600,
            max_duration: Duration::from_secs(2 * 3600),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Of the file as supplied, before unpacking.
    pub expected_sha256: Option<Sha256Digest>,
    /// What the file is said to be; needed only for raw content without a boot signature.
    pub declared_format: Option<ImageFormat>,
    pub limits: ImportLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportPhase {
    /// Copying and unpacking.
    Reading,
    Checking,
    Converting,
    /// Hashing and syncing the result.
    Publishing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImportProgress {
    pub phase: ImportPhase,
    /// Of the phase, 0 to 100.
    pub percent: f32,
}

/// What an import found and made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Of the stored qcow2: the image's identity.
    pub sha256: Sha256Digest,
    /// Of the file as supplied.
    pub source_sha256: Sha256Digest,
    pub source_format: ImageFormat,
    pub source_compression: Option<Compression>,
    pub virtual_size_bytes: u64,
    /// Length of the stored qcow2.
    pub file_size_bytes: u64,
}

type OnProgress = Arc<dyn Fn(ImportProgress) + Send + Sync>;

impl ImageStore {
    /// Imports the file at `source`. `on_progress` is called often, from any thread.
    pub async fn import(
        &self,
        source: &Path,
        options: &ImportOptions,
        on_progress: impl Fn(ImportProgress) + Send + Sync + 'static,
    ) -> Result<ImageInfo, StorageError> {
        let staging = Arc::new(self.staging().create().map_err(StorageError::io("staging in", self.path()))?);
        let import = Import { store: self, source, options, staging, on_progress: Arc::new(on_progress) };
        import.run().await
    }
}

struct Import<'a> {
    store: &'a ImageStore,
    source: &'a Path,
    options: &'a ImportOptions,
    staging: Arc<StagingDir>,
    on_progress: OnProgress,
}

impl Import<'_> {
    async fn run(self) -> Result<ImageInfo, StorageError> {
        let (staged, inspection) = self.stage_and_inspect().await?;
        if inspection.format == ImageFormat::Qcow2 {
            self.check().await?;
        }
        let output = self.convert(&staged, inspection).await?;
        self.report(ImportPhase::Publishing, 0.0);
        let (store, staging) = (self.store.clone(), self.staging.clone());
        let (source, limits) = (self.source.to_owned(), self.options.limits.clone());
        let published = blocking(move || publish(&store, &staging, &output, &source, &limits)).await;
        let (sha256, virtual_size_bytes, file_size_bytes) = published?;
        self.report(ImportPhase::Publishing, 100.0);
        tracing::info!(source = %self.source.display(), format = %inspection.format, %sha256, virtual_size_bytes, file_size_bytes, "image imported");
        Ok(ImageInfo {
            sha256,
            source_sha256: staged.source_sha256,
            source_format: inspection.format,
            source_compression: staged.compression,
            virtual_size_bytes,
            file_size_bytes,
        })
    }

    async fn stage_and_inspect(&self) -> Result<(Staged, Inspection), StorageError> {
        // A blocking task can't be dropped; this tells it to stop when we are.
        let cancel = CancellationToken::new();
        let _stop_when_dropped = cancel.clone().drop_guard();
        let (source, staging) = (self.source.to_owned(), self.staging.clone());
        let (options, on_progress) = (self.options.clone(), self.on_progress.clone());
        let work = move || {
            let input = staging.create_file(INPUT).map_err(StorageError::io("staging", &source))?;
            let job = StageJob {
                path: &source,
                limits: &options.limits,
                cancel: &cancel,
                on_percent: &|percent| on_progress(ImportProgress { phase: ImportPhase::Reading, percent }),
            };
            let staged = job.run(open_source(&source)?, &input)?;
            if let Some(expected) = options.expected_sha256
                && expected != staged.source_sha256
            {
                return Err(StorageError::Checksum { path: source, expected, found: staged.source_sha256 });
            }
            let inspection = probe::inspect(&input, options.declared_format, options.limits.max_virtual_bytes)
                .map_err(|reason| StorageError::Refused { path: source.clone(), reason })?;
            if inspection.format == ImageFormat::Raw {
                // Whole sectors only, see the probe.
                input.set_len(inspection.virtual_size_bytes).map_err(StorageError::io("padding", &source))?;
            }
            give_to_worker(&input).map_err(StorageError::io("staging", &source))?;
            Ok((staged, inspection))
        };
        blocking(work).await
    }

    /// Exit codes of `qemu-img check`: 0 fine, 2 damaged, 3 only space is leaked, others: it failed.
    async fn check(&self) -> Result<(), StorageError> {
        self.report(ImportPhase::Checking, 0.0);
        let run = self.qemu_img("checking", OUTPUT_GRACE_BYTES);
        let source = closed_source("qcow2", INPUT);
        let outcome = run.run(&["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), source.as_ref()], |_| {}).await?;
        match outcome.status.code() {
            Some(0 | 3) => Ok(()),
            _ => {
                let detail = if outcome.message.is_empty() { outcome.status.to_string() } else { outcome.message };
                Err(self.refused(Refusal::CheckFailed { detail }))
            }
        }
    }

    async fn convert(&self, staged: &Staged, inspection: Inspection) -> Result<File, StorageError> {
        let limits = &self.options.limits;
        let output = self.staging.create_file(OUTPUT).map_err(StorageError::io("staging", self.source))?;
        give_to_worker(&output).map_err(StorageError::io("staging", self.source))?;
        let bound_bytes = staged.size_bytes.saturating_mul(limits.max_ratio).max(OUTPUT_GRACE_BYTES);
        let run = self.qemu_img("converting", limits.max_output_bytes.min(bound_bytes));
        let format = probe::qemu_name(inspection.format);
        let source = closed_source(format, INPUT);
        let arguments = ["convert", "-p", "-f", format, "-O", "qcow2", "-o", "compat=1.1", &source, OUTPUT];
        run.expect_success(&arguments.map(AsRef::as_ref), |percent| self.report(ImportPhase::Converting, percent))
            .await?;
        Ok(output)
    }

    fn qemu_img(&self, doing: &'static str, file_bytes: u64) -> Run<'_> {
        let limits = &self.options.limits;
        Run {
            staging: &self.staging,
            uid: WORKER_UID,
            limits: RunLimits {
                address_space_bytes: limits.max_address_space_bytes,
                cpu_seconds: limits.max_cpu_seconds,
                file_bytes,
                wall_clock: limits.max_duration,
            },
            doing,
            object: self.source,
        }
    }

    fn refused(&self, reason: Refusal) -> StorageError {
        StorageError::Refused { path: self.source.to_owned(), reason }
    }

    fn report(&self, phase: ImportPhase, percent: f32) {
        (self.on_progress)(ImportProgress { phase, percent });
    }
}

/// Opens without waiting, so that a pipe or a device in place of a file is found and refused.
fn open_source(path: &Path) -> Result<File, StorageError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(StorageError::io("opening", path))?;
    let is_file = file.metadata().map_err(StorageError::io("opening", path))?.is_file();
    if !is_file {
        return Err(StorageError::NotAFile { path: path.to_owned() });
    }
    Ok(file)
}

fn give_to_worker(file: &File) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(WORKER_UID), Some(WORKER_UID))?;
    }
    Ok(())
}

/// Takes the result back from the worker, makes sure of what it is and gives it its final name.
fn publish(
    store: &ImageStore,
    staging: &StagingDir,
    output: &File,
    source: &Path,
    limits: &ImportLimits,
) -> Result<(Sha256Digest, u64, u64), StorageError> {
    let failed = || StorageError::io("storing", source);
    if rustix::process::geteuid().is_root() {
        fchown(output, Some(0), Some(0)).map_err(failed())?;
    }
    output.set_permissions(Permissions::from_mode(IMAGE_FILE_MODE)).map_err(failed())?;
    let made = probe::inspect(output, Some(ImageFormat::Qcow2), limits.max_virtual_bytes)
        .map_err(|reason| StorageError::Refused { path: source.to_owned(), reason })?;
    let sha256 = hash_file(output).map_err(failed())?;
    let file_size_bytes = output.metadata().map_err(failed())?.len();
    let destination: PathBuf = store.image_path(sha256);
    match staging.publish(output, OUTPUT, &destination) {
        // The same content under its name already: the new copy only has to go.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        published => published.map_err(failed())?,
    }
    Ok((sha256, made.virtual_size_bytes, file_size_bytes))
}
