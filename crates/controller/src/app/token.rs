//! Tokens: only their hashes are here. Secrets are made and checked by the front end with the trust crate.

use std::{sync::Arc, time::Duration};

use gantry_api::rest::{CreateToken, WriteQuery};
use gantry_types::{ApiToken, Problem, Role, Severity, Timestamp, TokenSpec, TokenStatus};

use super::{App, Caller, already_exists, check_precondition};
use crate::objects::Change;

/// How late the expiry of a token is noticed at most by what it has opened.
const EXPIRY_CHECK: Duration = Duration::from_secs(5);
/// How long a join token is good if nothing else was asked for. It makes whoever has it a host.
const JOIN_EXPIRY: Duration = Duration::from_secs(3600);

/// Stores a new token whose secret has this SHA-256 (hex).
pub async fn create(
    app: &App,
    caller: &Caller,
    request: &CreateToken,
    hash: String,
    query: &WriteQuery,
) -> Result<ApiToken, Problem> {
    caller.may_administer()?;
    if request.role == Role::User {
        let problem = Problem::invalid("invalid-token", "the token would be of no use");
        return Err(problem.field("role", "user is for users who log in; use admin, operator, viewer or join"));
    }
    if request.expires_at.is_some_and(|at| at <= app.clock.now()) {
        return Err(
            Problem::invalid("invalid-token", "the token would never be valid").field("expires_at", "lies in the past")
        );
    }
    let expires_at = request.expires_at.or_else(|| {
        let default_ms = i64::try_from(JOIN_EXPIRY.as_millis()).unwrap_or(i64::MAX);
        (request.role == Role::Join).then(|| Timestamp::from_unix_ms(app.clock.now().unix_ms() + default_ms))
    });
    let mut token = ApiToken::new(request.name.clone(), TokenSpec { role: request.role, expires_at });
    token.status = TokenStatus { hash };
    app.stamp(&mut token.metadata);
    if app.objects.find::<ApiToken>(request.name.as_str()).await?.is_some() {
        return Err(already_exists(&token));
    }
    if query.dry_run {
        token.status.hash.clear();
        return Ok(token);
    }
    let mut change = Change::new();
    change.create(&token)?.event(&app.event(
        gantry_types::Resource::reference(&token),
        Severity::Normal,
        "TokenCreated",
        format!("{} made token '{}'", caller.name, request.name),
    ))?;
    token.metadata.revision = app.commit(change).await?;
    token.status.hash.clear();
    Ok(token)
}

/// The token with this hash, if it is still valid. The hash is of 256 random bits, so looking it up leaks nothing.
pub fn by_hash(app: &App, hash: &str) -> Option<Arc<ApiToken>> {
    let now = app.clock.now();
    app.model.read(|tables| {
        let mut tokens = tables.tokens.values();
        tokens
            .find(|token| token.status.hash == hash && token.spec.expires_at.is_none_or(|at| now < at))
            .map(Arc::clone)
    })
}

/// Returns once a token is deleted or expires; for what goes on after the request that showed it.
pub async fn ended(app: &App, token: &ApiToken) {
    let mut revisions = app.model.revisions();
    loop {
        let same = app.model.get::<ApiToken>(token.metadata.name.as_str());
        let is_there = same.is_some_and(|same| same.metadata.uuid == token.metadata.uuid);
        if !is_there || token.spec.expires_at.is_some_and(|at| at <= app.clock.now()) {
            return;
        }
        // The sender lives as long as the app; at the end of the wait the expiry is looked at again.
        let _changed = tokio::time::timeout(EXPIRY_CHECK, revisions.changed()).await;
    }
}

/// The last token that may change things can't be deleted: nobody could ever make another.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_administer()?;
    let token: ApiToken = app.objects.get(name).await?;
    check_precondition(&token, &token.metadata, query)?;
    let other_admin = app.model.read(|tables| {
        tables.tokens.values().any(|other| {
            other.spec.role == Role::Admin && other.spec.expires_at.is_none() && other.metadata.name.as_str() != name
        })
    });
    if token.spec.role == Role::Admin && !other_admin {
        return Err(Problem::conflict(
            "last-admin-token",
            format!("'{name}' is the last admin token that never expires"),
        )
        .object(gantry_types::Resource::reference(&token))
        .remedy("make another first: gantry token create NAME --role admin"));
    }
    if query.dry_run {
        return Ok(());
    }
    let mut change = Change::new();
    change.delete(&token).event(&app.event(
        gantry_types::Resource::reference(&token),
        Severity::Normal,
        "TokenDeleted",
        format!("{} deleted token '{name}'", caller.name),
    ))?;
    app.commit(change).await?;
    Ok(())
}
