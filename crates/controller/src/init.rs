//! `gantry controller init`: makes a datacenter's CA, the controller's own certificate, the store, the first
//! token and the first user.
//!
//! The settings file is written last and marks a complete installation: an interrupted init is simply run again. A
//! complete one is never touched.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use gantry_store::{OpenError, SqliteStore};
use gantry_trust::{
    ApiToken as ApiSecret, CertificateAuthority, Identity, LEAF_LIFETIME, LeafNames, PasswordHash, PeerIdentity,
    generate_password,
};
use gantry_types::{ApiToken, ErrorClass, Name, Problem, Role, TokenSpec, TokenStatus, User, UserSpec, UserStatus};

use crate::{
    clock::{Clock, SystemClock},
    objects::{Change, Objects},
    settings::{Settings, directory_problem},
};

const ADMIN_TOKEN: &str = "admin";
/// The first user, for the web UI.
pub const ADMIN_USER: &str = "admin";

/// What the operator decides about a new controller.
#[derive(Debug, Clone)]
pub struct InitOptions {
    pub data_dir: PathBuf,
    pub datacenter: Name,
    pub listen: SocketAddr,
    pub addresses: Vec<IpAddr>,
    pub dns_names: Vec<String>,
}

/// What a client needs to reach the new controller. Token and password are shown only now.
#[derive(Debug, Clone)]
pub struct Initialized {
    pub ca_pem: String,
    pub admin_token: String,
    /// Of the user [`ADMIN_USER`].
    pub admin_password: String,
}

pub fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store.db")
}
pub fn authority_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("ca")
}
pub fn identity_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

pub async fn init(options: &InitOptions) -> Result<Initialized, Problem> {
    let data_dir = &options.data_dir;
    if Settings::path(data_dir).exists() {
        let detail = format!("there is a controller in {} already", data_dir.display());
        return Err(Problem::conflict("already-initialized", detail)
            .remedy("start it with 'gantry controller run', or choose another directory"));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|e| directory_problem(data_dir, &e))?;
    let clock = SystemClock::default();
    let authority = authority(data_dir, &clock)?;
    let settings = Settings {
        datacenter: options.datacenter.clone(),
        listen: options.listen,
        addresses: options.addresses.clone(),
        dns_names: options.dns_names.clone(),
    };
    issue_identity(&authority, &settings, data_dir, &clock)?;
    let store = SqliteStore::open(store_path(data_dir)).await.map_err(open_problem)?;
    let objects = Objects::new(std::sync::Arc::new(store));
    let admin_token = first_token(&objects, &clock).await?;
    let admin_password = first_user(&objects, &clock).await?;
    settings.save(data_dir)?;
    Ok(Initialized { ca_pem: authority.certificate_pem().to_owned(), admin_token, admin_password })
}

fn authority(data_dir: &Path, clock: &dyn Clock) -> Result<CertificateAuthority, Problem> {
    let directory = authority_dir(data_dir);
    let made = if directory.exists() {
        CertificateAuthority::load(&directory)
    } else {
        CertificateAuthority::create(&directory, clock.now().0)
    };
    made.map_err(|error| trust_problem("the CA", &error))
}

/// A fresh certificate for the controller, on disk.
pub fn issue_identity(
    authority: &CertificateAuthority,
    settings: &Settings,
    data_dir: &Path,
    clock: &dyn Clock,
) -> Result<Identity, Problem> {
    let peer = PeerIdentity::new(gantry_trust::Role::Controller, settings.datacenter.clone());
    let names = LeafNames { dns_names: settings.dns_names.clone(), ..LeafNames::new(peer, &settings.addresses) };
    let identity = authority
        .issue_identity(&names, LEAF_LIFETIME, clock.now().0)
        .map_err(|error| trust_problem("the controller's certificate", &error))?;
    identity.save(&identity_dir(data_dir)).map_err(|error| trust_problem("the controller's certificate", &error))?;
    Ok(identity)
}

/// The admin token; one that an interrupted init left behind is replaced, since nobody has seen its secret.
async fn first_token(objects: &Objects, clock: &dyn Clock) -> Result<String, Problem> {
    let name: Name = ADMIN_TOKEN.parse().unwrap_or_else(|error| panic!("{error}"));
    let secret = ApiSecret::create(name.clone());
    let mut change = Change::new();
    match objects.find::<ApiToken>(ADMIN_TOKEN).await? {
        Some(mut token) => {
            token.status.hash = secret.hash().to_string();
            change.update(&token)?;
        }
        None => {
            let mut token = ApiToken::new(name, TokenSpec { role: Role::Admin, expires_at: None });
            token.metadata.uuid = clock.new_uuid();
            token.metadata.created_at = Some(clock.now());
            token.status = TokenStatus { hash: secret.hash().to_string() };
            change.create(&token)?;
        }
    }
    objects.commit(change).await?;
    Ok(secret.to_text())
}

/// The password of the first user; as with the token, an earlier one was seen by nobody.
async fn first_user(objects: &Objects, clock: &dyn Clock) -> Result<String, Problem> {
    let password = generate_password();
    let hash = PasswordHash::of(&password).map_err(|error| trust_problem("the first user's password", &error))?;
    let status = UserStatus { password_hash: hash.as_str().to_owned(), password_set_at: Some(clock.now()) };
    let mut change = Change::new();
    match objects.find::<User>(ADMIN_USER).await? {
        Some(mut user) => {
            user.status = status;
            change.update(&user)?;
        }
        None => {
            let name: Name = ADMIN_USER.parse().unwrap_or_else(|error| panic!("{error}"));
            let spec = UserSpec { display_name: None, role: Role::Admin, consoles: None, disabled: false };
            let mut user = User::new(name, spec);
            user.metadata.uuid = clock.new_uuid();
            user.metadata.created_at = Some(clock.now());
            user.status = status;
            change.create(&user)?;
        }
    }
    objects.commit(change).await?;
    Ok(password)
}

pub fn trust_problem(what: &str, error: &gantry_trust::TrustError) -> Problem {
    Problem::new(error.class(), "trust", format!("{what}: {error}"))
        .remedy("check the files in the controller's data directory, or restore them from a backup")
}

pub fn open_problem(error: OpenError) -> Problem {
    Problem::new(ErrorClass::Permanent, "store", format!("the store can't be opened: {error}"))
        .remedy("make sure that only one controller uses this data directory and that its files are whole")
}
