//! Users: made, changed, and let in.
//!
//! A password is hashed before anything is read, off the runtime and few at a time. Whoever asks for a user who does
//! not exist waits as long as for a wrong password, and gets the same answer.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gantry_api::{
    access::{CreateUser, CreatedUser, Login, PasswordSet, SetPassword},
    rest::{Changed, WriteQuery},
};
use gantry_trust::{PASSWORD_LENGTH, PasswordHash, RandomSecret, generate_password};
use gantry_types::{Problem, Resource, Role, Severity, User, UserSpec, UserStatus, Vm};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{access::Session, objects::Change};

/// How late the end of a session is noticed at most by what it has opened.
const EXPIRY_CHECK: Duration = Duration::from_secs(5);

/// Why nobody was let in.
#[derive(Debug)]
pub enum LoginRefused {
    /// Too many wrong passwords; the next may be tried after this.
    Throttled(Duration),
    /// No such user, or not his password. Which of them is nobody's business.
    Wrong,
    Failed(Problem),
}

/// Makes a user, with a password that is made up if none was sent.
pub async fn create(
    app: &App,
    caller: &Caller,
    request: &CreateUser,
    query: &WriteQuery,
) -> Result<CreatedUser, Problem> {
    caller.may_administer()?;
    let spec = UserSpec {
        display_name: request.display_name.clone(),
        role: request.role,
        consoles: request.consoles,
        disabled: false,
    };
    spec.validate()?;
    let mut user = User::new(request.name.clone(), spec);
    app.stamp(&mut user.metadata);
    if app.objects.find::<User>(user.name()).await?.is_some() {
        return Err(already_exists(&user));
    }
    let (password, made_up) = chosen(request.password.as_deref())?;
    if query.dry_run {
        return Ok(CreatedUser { object: user, password: made_up.then(String::new) });
    }
    user.status = UserStatus { password_hash: hash(app, &password).await?, password_set_at: Some(app.clock.now()) };
    let mut change = Change::new();
    change.create(&user)?.event(&app.event(
        user.reference(),
        Severity::Normal,
        "UserCreated",
        format!("{} made user '{}' with the role {}", caller.name, user.name(), role_name(user.spec.role)),
    ))?;
    user.metadata.revision = app.commit(change).await?;
    Ok(CreatedUser { object: app.model.decorate(&user), password: made_up.then_some(password) })
}

/// Changes what a user is called and may do. It does not create: a user needs a password.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: User,
    query: &WriteQuery,
) -> Result<Changed<User>, Problem> {
    caller.may_administer()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.spec.validate()?;
    app.objects
        .racing(|| async {
            let current: User = app.objects.get(name).await?;
            check_precondition(&current, &sent.metadata, query)?;
            let mut user = current.clone();
            user.spec = sent.spec.clone();
            user.metadata.labels = sent.metadata.labels.clone();
            if user != current {
                if !is_active_admin(&user) {
                    check_not_last_admin(app, &current)?;
                }
                if !query.dry_run {
                    let mut change = Change::new();
                    change.update(&user)?.event(&app.event(
                        user.reference(),
                        Severity::Normal,
                        "UserChanged",
                        format!("{} changed user '{name}'", caller.name),
                    ))?;
                    user.metadata.revision = app.commit(change).await?;
                }
            }
            Ok(Changed { object: app.model.decorate(&user), operation: None })
        })
        .await
}

/// Refused while VMs are his, and for the last administrator.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_administer()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let user: User = app.objects.get(name).await?;
            check_precondition(&user, &user.metadata, query)?;
            check_not_last_admin(app, &user)?;
            check_owns_nothing(app, &user)?;
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            change.delete(&user).event(&app.event(
                user.reference(),
                Severity::Normal,
                "UserDeleted",
                format!("{} deleted user '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

fn check_owns_nothing(app: &App, user: &User) -> Result<(), Problem> {
    let is_his = |vm: &&Arc<Vm>| vm.spec.owner.as_ref() == Some(&user.metadata.name);
    let vms: Vec<String> =
        app.model.read(|tables| tables.vms.values().filter(is_his).take(5).map(|vm| vm.name().to_owned()).collect());
    if vms.is_empty() {
        return Ok(());
    }
    let detail = format!("user '{}' owns VMs: {}", user.name(), vms.join(", "));
    Err(Problem::conflict("user-in-use", detail)
        .object(user.reference())
        .remedy("give them to somebody else first (spec.owner), or disable the user"))
}

fn is_active_admin(user: &User) -> bool {
    user.spec.role == Role::Admin && !user.spec.disabled
}

fn check_not_last_admin(app: &App, user: &User) -> Result<(), Problem> {
    let is_other = |other: &Arc<User>| is_active_admin(other) && other.metadata.uuid != user.metadata.uuid;
    if !is_active_admin(user) || app.model.read(|tables| tables.users.values().any(is_other)) {
        return Ok(());
    }
    Err(Problem::conflict("last-admin-user", format!("'{}' is the last user who is an administrator", user.name()))
        .object(user.reference())
        .remedy("make another first: gantry user create NAME --role admin"))
}

/// Sets a password: an administrator anyone's, anybody else his own if he shows the present one. The sessions that
/// began with the old one are over.
pub async fn set_password(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &SetPassword,
    address: IpAddr,
) -> Result<PasswordSet, Problem> {
    caller.may_set_password(name)?;
    let known = app.model.get::<User>(name).ok_or_else(|| Problem::not_found(User::KIND, name))?;
    let (password, made_up) = chosen(request.password.as_deref())?;
    if !caller.is_admin() {
        let shown = request.current_password.clone().unwrap_or_default();
        app.access.throttle.admit(name, address, app.clock.elapsed()).map_err(throttled)?;
        if !fits(app, known.status.password_hash.clone(), shown).await? {
            return Err(Problem::denied(
                "wrong-password",
                format!("that is not the present password of user '{name}'"),
            )
            .field("current_password", "is wrong"));
        }
        app.access.throttle.succeeded(name, address, app.clock.elapsed());
    }
    let hash = hash(app, &password).await?;
    app.objects
        .racing(|| async {
            let mut user: User = app.objects.get(name).await?;
            user.status = UserStatus { password_hash: hash.clone(), password_set_at: Some(app.clock.now()) };
            let mut change = Change::new();
            change.update(&user)?.event(&app.event(
                user.reference(),
                Severity::Normal,
                "PasswordSet",
                format!("{} set the password of user '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            Ok(PasswordSet { password: made_up.then(|| password.clone()) })
        })
        .await
}

/// Opens a session for whoever shows a user's password.
pub async fn log_in(app: &App, login: &Login, address: IpAddr) -> Result<(RandomSecret, Arc<Session>), LoginRefused> {
    let name: String = login.name.chars().take(64).collect();
    app.access.throttle.admit(&name, address, app.clock.elapsed()).map_err(LoginRefused::Throttled)?;
    let user = app.model.get::<User>(&name).filter(|user| !user.spec.disabled);
    let stored = match &user {
        Some(user) => user.status.password_hash.clone(),
        None => nobodys_hash(app).await.map_err(LoginRefused::Failed)?,
    };
    let is_right = fits(app, stored, login.password.clone()).await.map_err(LoginRefused::Failed)?;
    let user = user.filter(|_| is_right).ok_or(LoginRefused::Wrong)?;
    app.access.throttle.succeeded(&name, address, app.clock.elapsed());
    Ok(app.access.sessions.open(&user, &*app.clock))
}

/// The problem of somebody who tries too often.
pub fn throttled(wait: Duration) -> Problem {
    let wait_s = wait.as_secs().max(1);
    let problem = Problem::transient("login-throttled", "too many wrong passwords were tried");
    Problem { status: 429, ..problem }.remedy(format!("try again in {wait_s} s"))
}

/// The user of a session, if the session still counts: he is there, not disabled, and has the password it began with.
pub fn of_session(app: &App, session: &Session) -> Option<Arc<User>> {
    let user = app.model.get::<User>(session.user.as_str())?;
    let same = user.metadata.uuid == session.user_uuid && user.status.password_set_at == session.password_set_at;
    (same && !user.spec.disabled).then_some(user)
}

/// Returns once a session is over, or its user may do something else than before; for what goes on after the request
/// that showed it.
pub async fn session_ended(app: &App, session: &Session, began_as: &UserSpec) {
    let mut revisions = app.model.revisions();
    loop {
        let goes_on = app.access.sessions.is_open(session, &*app.clock)
            && of_session(app, session).is_some_and(|user| user.spec == *began_as);
        if !goes_on {
            return;
        }
        // The sender lives as long as the app; at the end of the wait the limits are looked at again.
        let _changed = tokio::time::timeout(EXPIRY_CHECK, revisions.changed()).await;
    }
}

/// The password to set, and whether it was made up.
fn chosen(sent: Option<&str>) -> Result<(String, bool), Problem> {
    match sent {
        None => Ok((generate_password(), true)),
        Some(password) if PASSWORD_LENGTH.contains(&password.len()) => Ok((password.to_owned(), false)),
        Some(password) => {
            let (least, most) = (PASSWORD_LENGTH.start(), PASSWORD_LENGTH.end());
            let message = format!("has {} bytes, use {least} to {most}; or leave it out to get one", password.len());
            Err(Problem::invalid("invalid-password", "the password can't be used").field("password", message))
        }
    }
}

async fn hash(app: &App, password: &str) -> Result<String, Problem> {
    let password = password.to_owned();
    let hashed = blocking(app, move || PasswordHash::of(&password)).await?;
    let failed = |error| Problem::permanent("not-hashed", format!("the password could not be hashed: {error}"));
    Ok(hashed.map_err(failed)?.as_str().to_owned())
}

async fn fits(app: &App, stored: String, password: String) -> Result<bool, Problem> {
    // Longer than any password: not worth the work.
    if password.len() > *PASSWORD_LENGTH.end() {
        return Ok(false);
    }
    blocking(app, move || PasswordHash::stored(stored).fits(&password)).await
}

/// A hash that no password fits, for users who don't exist.
async fn nobodys_hash(app: &App) -> Result<String, Problem> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash.clone());
    }
    let made = hash(app, &generate_password()).await?;
    Ok(HASH.get_or_init(|| made).clone())
}

async fn blocking<R: Send + 'static>(app: &App, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Problem> {
    let ended = |what: &dyn std::fmt::Display| Problem::transient("not-hashed", format!("hashing ended: {what}"));
    let _place = app.access.hashing.acquire().await.map_err(|error| ended(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| ended(&error))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::Viewer => "viewer",
        Role::User => "user",
        Role::Join => "join",
    }
}
