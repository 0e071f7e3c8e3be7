//! `gantry pool|volume …`

use std::collections::BTreeMap;

use gantry_api::rest::{AttachRequest, Changed, MigrateVolumeRequest, WriteQuery};
use gantry_types::{ByteSize, ErrorClass, Image, Labels, Pool, PoolSpec, Resource, Volume, VolumeLimits, VolumeSpec};

use super::{Session, announce, apply, carry_out, moves, networking::change, objects, volume_files};
use crate::{
    args::{
        FollowOptions, PoolCommand, PoolCreate, PoolLimits, VolumeClone, VolumeCommand, VolumeCreate, VolumeSet,
        VolumeSettings,
    },
    client::Client,
    exit::Failure,
    kind::Kind,
};

pub async fn pools(session: &Session, command: PoolCommand) -> Result<(), Failure> {
    match command {
        PoolCommand::Create(arguments) => create_pool(session, arguments).await,
        PoolCommand::List(options) => objects::list::<Pool>(session, &options, |_| true).await,
        PoolCommand::Show { name } => objects::show_all::<Pool>(session, &name).await,
        PoolCommand::Set { name, limits } => {
            let client = session.client()?;
            let (pool, changed) = change::<Pool>(&client, &name, |pool| {
                limit(&mut pool.spec, limits);
                Ok(())
            })
            .await?;
            Ok(announce(session.printer, &pool, if changed { "changed" } else { "unchanged" })?)
        }
        PoolCommand::Delete { names, follow } => apply::delete_named(session, Kind::Pool, &names, follow).await,
    }
}

fn limit(spec: &mut PoolSpec, limits: PoolLimits) {
    spec.overcommit_percent = limits.overcommit.unwrap_or(spec.overcommit_percent);
    spec.alarm_percent = limits.alarm.unwrap_or(spec.alarm_percent);
}

fn labels(given: Vec<(String, String)>) -> Labels {
    Labels(given.into_iter().collect::<BTreeMap<_, _>>())
}

async fn create_pool(session: &Session, arguments: PoolCreate) -> Result<(), Failure> {
    let client = session.client()?;
    let path = arguments.path.unwrap_or_default();
    let mut spec = PoolSpec { hosts: arguments.host, ..PoolSpec::dir(path, arguments.name.clone()) };
    (spec.kind, spec.url) = (arguments.kind.into(), arguments.url);
    limit(&mut spec, arguments.limits);
    let mut pool = Pool::new(arguments.name, spec);
    pool.metadata.labels = labels(arguments.labels);
    let changed = client.create(&pool, &WriteQuery::default()).await?;
    finish(session, &client, changed, arguments.follow, ("created", "is being made")).await
}

/// Follows the change and says what was done, or is being done.
async fn finish<T: Resource>(
    session: &Session,
    client: &Client,
    changed: Changed<T>,
    follow: FollowOptions,
    (done, doing): (&str, &str),
) -> Result<(), Failure> {
    carry_out(client, &changed, follow).await?;
    let latest = client.get::<T>(changed.object.name()).await.unwrap_or(changed.object);
    let waits = follow.no_wait && changed.operation.is_some();
    Ok(announce(session.printer, &latest, if waits { doing } else { done })?)
}

pub async fn volumes(session: &Session, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create(arguments) => create_volume(session, arguments).await,
        VolumeCommand::Import(arguments) => volume_files::import(session, arguments).await,
        VolumeCommand::Export { name, file, format } => volume_files::export(session, &name, &file, format).await,
        VolumeCommand::Clone(arguments) => clone_volume(session, arguments).await,
        VolumeCommand::List(options) => objects::list::<Volume>(session, &options, |_| true).await,
        VolumeCommand::Show { name } => objects::show_all::<Volume>(session, &name).await,
        VolumeCommand::Attach { name, vm, follow } => {
            let client = session.client()?;
            let done = format!("attached to vm/{vm}");
            let changed = client.attach(&name, &AttachRequest { vm }).await?;
            finish(session, &client, changed, follow, (&done, "is being attached")).await
        }
        VolumeCommand::Detach { name, follow } => {
            let client = session.client()?;
            let changed = client.detach(&name).await?;
            finish(session, &client, changed, follow, ("detached", "is being detached")).await
        }
        VolumeCommand::Migrate { name, to, follow } => {
            let client = session.client()?;
            let done = format!("is in pool/{to}");
            let moved = client.migrate_volume(&name, &MigrateVolumeRequest { to: to.clone() }).await;
            let changed = match moved {
                Err(problem) if problem.class == ErrorClass::NotFound => {
                    return moves::move_own_disk(session, &client, &name, to, follow, problem).await;
                }
                moved => moved?,
            };
            finish(session, &client, changed, follow, (&done, "is being moved")).await
        }
        VolumeCommand::Set(arguments) => set_volume(session, arguments).await,
        VolumeCommand::Delete { names, follow } => apply::delete_named(session, Kind::Volume, &names, follow).await,
    }
}

pub(super) fn adjust(spec: &mut VolumeSpec, settings: VolumeSettings) {
    if let Some(iops) = settings.iops {
        spec.limits.iops = Some(iops).filter(|iops| *iops > 0);
    }
    if let Some(rate) = settings.bytes_per_s {
        spec.limits.bytes_per_s = Some(rate).filter(|rate| rate.bytes() > 0);
    }
    spec.cache = settings.cache.map_or(spec.cache, Into::into);
    spec.discard = settings.discard.unwrap_or(spec.discard);
}

async fn create_volume(session: &Session, arguments: VolumeCreate) -> Result<(), Failure> {
    let client = session.client()?;
    let size = match (arguments.size, &arguments.image) {
        (Some(size), _) => size,
        (None, Some(image)) => client.get::<Image>(image.as_str()).await?.status.virtual_size,
        (None, None) => ByteSize(0),
    };
    let mut spec = VolumeSpec {
        pool: arguments.pool,
        size,
        clone_of: None,
        image: arguments.image,
        backup: None,
        limits: VolumeLimits::default(),
        cache: Default::default(),
        discard: true,
    };
    adjust(&mut spec, arguments.settings);
    let mut volume = Volume::new(arguments.name, spec);
    volume.metadata.labels = labels(arguments.labels);
    let write = WriteQuery { dry_run: arguments.dry_run, revision: None };
    let changed = client.create(&volume, &write).await?;
    if arguments.dry_run {
        return Ok(announce(session.printer, &changed.object, "created (dry run)")?);
    }
    finish(session, &client, changed, arguments.follow, ("created", "is being made")).await
}

/// With the settings of its source, but for what is given.
async fn clone_volume(session: &Session, arguments: VolumeClone) -> Result<(), Failure> {
    let client = session.client()?;
    let source: Volume = client.get(&arguments.source).await?;
    let mut spec = VolumeSpec { clone_of: Some(source.metadata.name), image: None, backup: None, ..source.spec };
    spec.pool = arguments.pool.unwrap_or(spec.pool);
    spec.size = arguments.size.unwrap_or(spec.size);
    adjust(&mut spec, arguments.settings);
    let changed = client.create(&Volume::new(arguments.name, spec), &WriteQuery::default()).await?;
    finish(session, &client, changed, arguments.follow, ("created", "is being made")).await
}

async fn set_volume(session: &Session, arguments: VolumeSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (changed, is_different) = client
        .change::<Volume>(arguments.name.as_str(), |volume| {
            volume.spec.size = arguments.size.unwrap_or(volume.spec.size);
            adjust(&mut volume.spec, arguments.settings);
            Ok(())
        })
        .await?;
    let told = if is_different { ("changed", "is being changed") } else { ("unchanged", "unchanged") };
    finish(session, &client, changed, arguments.follow, told).await
}
