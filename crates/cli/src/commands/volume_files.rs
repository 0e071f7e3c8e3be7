//! `gantry volume import|export`: volumes from disk files, and disk files from volumes.
//!
//! An import goes by way of an image that is there only meanwhile, so that what comes from outside is looked at, checked and
//! brought to the hosts as any image is.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use gantry_api::rest::{ExportQuery, WriteQuery};
use gantry_types::{
    ByteSize, Image, ImageFormat, ImageSource, ImageSpec, Name, Problem, Volume, VolumeLimits, VolumeSpec,
};

use super::{Session, announce, carry_out, images, storage::adjust};
use crate::{
    args::{FollowOptions, VolumeImport},
    client::Client,
    exit::Failure,
    output::note,
    progress::{Indicator, Stage},
};

/// What the image is called that an import goes by way of.
const PASSING: &str = "import-";

pub async fn import(session: &Session, arguments: VolumeImport) -> Result<(), Failure> {
    let client = session.client()?;
    let file = Path::new(&arguments.file);
    if !file.is_file() {
        return Err(Problem::invalid("unreadable-file", format!("'{}' is not a file", file.display()))
            .remedy("name a disk file: qcow2, raw, vmdk, vhd, vhdx or vdi")
            .into());
    }
    let passing: Name = format!("{PASSING}{}", arguments.name).parse().map_err(|error| {
        Problem::invalid("invalid-volume", format!("'{}' is too long a name for an import: {error}", arguments.name))
            .remedy("choose a shorter one")
    })?;
    // What would be refused in the end is refused before anything is sent.
    let settled = |size| volume_of(&arguments, &passing, size);
    let mut trial = settled(ByteSize::mib(1));
    trial.spec.image = None;
    client.create(&trial, &WriteQuery { dry_run: true, revision: None }).await?;
    let spec = ImageSpec { source: ImageSource::Upload, sha256: None, format: arguments.format };
    let image = Image::new(passing.clone(), spec);
    client.create(&image, &WriteQuery::default()).await.map_err(|problem| match problem.code() {
        "already-exists" => problem
            .remedy(format!("another import of this name is under way, or broke off: gantry image delete {passing}")),
        _ => problem,
    })?;
    let made = make(&client, &image, file, &settled).await;
    let deleted = match client.delete::<Image>(passing.as_str(), &WriteQuery::default()).await {
        Ok(deleted) => carry_out(&client, &deleted, FollowOptions { no_wait: false }).await.is_ok(),
        Err(_) => false,
    };
    if !deleted {
        note(&format!("image '{passing}' is left; remove it: gantry image delete {passing}"));
    }
    Ok(announce(session.printer, &made?, "imported")?)
}

fn volume_of(arguments: &VolumeImport, image: &Name, size: ByteSize) -> Volume {
    let mut spec = VolumeSpec {
        pool: arguments.pool.clone(),
        size: arguments.size.unwrap_or(size),
        clone_of: None,
        image: Some(image.clone()),
        backup: None,
        limits: VolumeLimits::default(),
        cache: Default::default(),
        discard: true,
    };
    adjust(&mut spec, arguments.settings);
    Volume::new(arguments.name.clone(), spec)
}

async fn make(
    client: &Client,
    image: &Image,
    file: &Path,
    volume: &impl Fn(ByteSize) -> Volume,
) -> Result<Volume, Failure> {
    let follow = FollowOptions { no_wait: false };
    let uploaded = images::upload(client, image.metadata.name.as_str(), file).await?;
    carry_out(client, &uploaded, follow).await?;
    let imported: Image = client.get(image.metadata.name.as_str()).await?;
    let wanted = volume(imported.status.virtual_size);
    let changed = client.create(&wanted, &WriteQuery::default()).await?;
    carry_out(client, &changed, follow).await?;
    Ok(client.get::<Volume>(wanted.metadata.name.as_str()).await?)
}

/// By the end of the file's name.
fn format_of(file: &Path) -> ImageFormat {
    match file.extension().and_then(|end| end.to_str()) {
        Some("raw" | "img") => ImageFormat::Raw,
        Some("vmdk") => ImageFormat::Vmdk,
        Some("vhd" | "vpc") => ImageFormat::Vhd,
        Some("vhdx") => ImageFormat::Vhdx,
        Some("vdi") => ImageFormat::Vdi,
        _ => ImageFormat::Qcow2,
    }
}

pub async fn export(session: &Session, name: &str, file: &Path, format: Option<ImageFormat>) -> Result<(), Failure> {
    let client = session.client()?;
    let format = format.unwrap_or_else(|| format_of(file));
    // Under another name until it is whole.
    let part = file.with_added_extension("part");
    let unwritable = |error: std::io::Error| {
        Problem::invalid("unwritable-file", format!("{} can't be written: {error}", part.display()))
    };
    let mut output = File::create(&part).map_err(unwritable)?;
    let received = receive(&client, name, format, &mut output).await;
    let whole = match received {
        Ok(()) => {
            output.sync_all().and_then(|()| std::fs::rename(&part, file)).map_err(|error| unwritable(error).into())
        }
        failed => failed,
    };
    if whole.is_err() {
        // It says nothing that the failure does not.
        drop(std::fs::remove_file(&part));
    }
    whole?;
    let volume: Volume = client.get(name).await?;
    Ok(announce(session.printer, &volume, &format!("written to {} as {format}", file.display()))?)
}

async fn receive(client: &Client, name: &str, format: ImageFormat, output: &mut File) -> Result<(), Failure> {
    let broken = |why: &dyn std::fmt::Display| {
        Problem::transient("export-broken", format!("volume '{name}' did not arrive: {why}"))
            .remedy("repeat the command")
    };
    let mut indicator = Indicator::new(format!("receiving {name}"));
    let mut response = client.export(name, &ExportQuery { format }).await?;
    let total = response.content_length().unwrap_or(0);
    let mut done = 0;
    loop {
        let part = tokio::select! {
            part = response.chunk() => part.map_err(|error| broken(&error))?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::Interrupted(format!("the export of volume '{name}' was stopped")));
            }
        };
        let Some(part) = part else { break };
        output.write_all(&part).map_err(|error| broken(&error))?;
        done += part.len() as u64;
        indicator.update(&Stage { bytes_done: done, bytes_total: total, ..Stage::default() });
    }
    if total > 0 && done != total {
        return Err(broken(&format!("{done} of {total} bytes came")).into());
    }
    Ok(())
}
