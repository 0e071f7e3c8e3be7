//! `gantry controller run`: puts a controller together and runs it until it is told to stop.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use gantry_store::{SharedStore, SqliteStore};
use gantry_trust::{CertificateAuthority, Identity, LiveIdentity};
use gantry_types::Problem;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    agent_links::AgentLinks,
    alarms::built_in,
    app::{App, cluster},
    clock::{Clock, SystemClock},
    config::Config,
    http::{self, Arriving, Front},
    image_library::StoredImages,
    init::{authority_dir, identity_dir, issue_identity, open_problem, store_path, trust_problem},
    loops,
    objects::Objects,
    power::BuiltInDrivers,
    settings::Settings,
};

/// How often the controller looks at the age of its own certificate.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// Runs the controller of `data_dir` until `shutdown`. Ending at any other moment loses nothing either.
pub async fn run(
    data_dir: &Path,
    listen: Option<SocketAddr>,
    power: BuiltInDrivers,
    shutdown: CancellationToken,
) -> Result<(), Problem> {
    let settings = Settings::load(data_dir)?;
    let config = Config::new(data_dir, listen.unwrap_or(settings.listen), settings.datacenter.as_str());
    let clock = Arc::new(SystemClock::default());
    let authority = load_authority(data_dir)?;
    let identity = load_identity(data_dir, &settings, &authority, &*clock)?;
    let store: SharedStore = Arc::new(SqliteStore::open(store_path(data_dir)).await.map_err(open_problem)?);
    let agents = Arc::new(AgentLinks::new(identity.clone()));
    let images = Arc::new(StoredImages::open(&config).await?);
    let power = Arc::new(power);
    let objects = Objects::new(Arc::clone(&store));
    cluster::ensure_main(&objects, &*clock).await?;
    built_in::ensure(&objects, &*clock).await?;
    let (app, feed) = App::open(config, store, agents.clone(), images, power, clock.clone()).await?;

    let listener = TcpListener::bind(app.config.listen).await.map_err(|error| {
        Problem::permanent("listen", format!("the controller can't listen on {}: {error}", app.config.listen))
            .remedy("choose a free address: gantry controller run --listen ADDRESS:PORT")
    })?;
    let renewal =
        keep_identity_fresh(identity.clone(), load_authority(data_dir)?, settings, data_dir.to_owned(), clock);
    let renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
    let work = AbortOnDropHandle::new(tokio::spawn(loops::run(Arc::clone(&app), feed)));
    tracing::info!(address = %app.config.listen, datacenter = %app.config.datacenter, "controller ready");

    let front = Arc::new(Front { app, authority, identity, agents, arriving: Arriving::default() });
    let outcome = tokio::select! {
        served = http::serve(front, listener, shutdown) => served.map_err(|error| trust_problem("the server", &error)),
        // A controller without its loops would be worse than none: a supervisor starts it again.
        _ = work => Err(Problem::permanent("loop-ended", "a part of the controller ended unexpectedly; see its log")),
    };
    drop(renewal);
    outcome
}

fn load_authority(data_dir: &Path) -> Result<CertificateAuthority, Problem> {
    CertificateAuthority::load(&authority_dir(data_dir)).map_err(|error| trust_problem("the CA", &error))
}

fn load_identity(
    data_dir: &Path,
    settings: &Settings,
    authority: &CertificateAuthority,
    clock: &dyn Clock,
) -> Result<LiveIdentity, Problem> {
    let failed = |error| trust_problem("the controller's certificate", &error);
    let mut identity = Identity::load(&identity_dir(data_dir)).map_err(failed)?;
    if identity.needs_renewal(clock.now().0) {
        identity = issue_identity(authority, settings, data_dir, clock)?;
    }
    LiveIdentity::new(identity).map_err(failed)
}

async fn keep_identity_fresh(
    identity: LiveIdentity,
    authority: CertificateAuthority,
    settings: Settings,
    data_dir: std::path::PathBuf,
    clock: Arc<SystemClock>,
) {
    loop {
        clock.sleep(RENEWAL_CHECK).await;
        if !identity.current().needs_renewal(clock.now().0) {
            continue;
        }
        let renewed = issue_identity(&authority, &settings, &data_dir, &*clock).and_then(|fresh| {
            identity.replace(fresh).map_err(|error| trust_problem("the controller's new certificate", &error))
        });
        match renewed {
            Ok(()) => tracing::info!("the controller has a new certificate"),
            Err(error) => tracing::error!(%error, "the controller's certificate could not be renewed"),
        }
    }
}
