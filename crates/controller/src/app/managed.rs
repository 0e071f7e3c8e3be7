//! What the objects that describe networks and resource pools have in common: checked by themselves and in what they name, written in one
//! transaction, and not deleted while others name them.
//!
//! All of it happens while nothing else that names or is named is made, changed or deleted ([`App::references`]).

use async_trait::async_trait;
use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Problem, Severity};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{
    model::{Kind, Tables},
    objects::Change,
};

/// A field and what is wrong with it.
pub type Mistake = (String, String);

#[async_trait]
pub trait Managed: Kind + PartialEq {
    /// The kind in the reasons of events: `SecurityGroup`.
    const EVENT: &'static str;

    /// All that is wrong with the spec by itself.
    fn mistakes(&self) -> Vec<Mistake>;

    /// What it names and is not there or does not fit.
    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake>;

    /// What of `current` can't be changed to this.
    fn wrong_changes(&self, _current: &Self) -> Vec<Mistake> {
        Vec::new()
    }

    /// What names it, for people: `port 'web-1-eth0'`.
    fn users(&self, tables: &Tables) -> Vec<String>;

    /// What else is written when it is made or changed; fills in its status.
    async fn settle(&mut self, _app: &App, _current: Option<&Self>, _change: &mut Change) -> Result<(), Problem> {
        Ok(())
    }

    /// What else is written when it is deleted.
    async fn unsettle(&self, _app: &App, _change: &mut Change) -> Result<(), Problem> {
        Ok(())
    }

    fn with_status_of(self, current: &Self) -> Self;
}

pub async fn create<T: Managed>(
    app: &App,
    caller: &Caller,
    sent: T,
    query: &WriteQuery,
) -> Result<Changed<T>, Problem> {
    check(app, caller, &sent)?;
    let _alone = app.references.write().await;
    if app.objects.find::<T>(sent.name()).await?.is_some() {
        return Err(already_exists(&sent));
    }
    app.objects.racing(|| make(app, caller, sent.clone(), query)).await
}

fn check<T: Managed>(_app: &App, caller: &Caller, sent: &T) -> Result<(), Problem> {
    caller.may_change()?;
    check_labels(sent.metadata())?;
    refuse(sent, sent.mistakes())
}

fn refuse<T: Managed>(sent: &T, mistakes: Vec<Mistake>) -> Result<(), Problem> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let detail = format!("{} '{}' can't be like this", T::KIND, sent.name());
    let problem = Problem::invalid(&format!("invalid-{}", T::KIND), detail);
    Err(mistakes.into_iter().fold(problem, |problem, (field, message)| problem.field(field, message)))
}

/// The caller holds [`App::references`] for writing.
async fn make<T: Managed>(app: &App, caller: &Caller, sent: T, query: &WriteQuery) -> Result<Changed<T>, Problem> {
    refuse(&sent, app.model.read(|tables| sent.wrong_references(tables)))?;
    let mut object = sent;
    app.stamp(object.metadata_mut());
    let mut change = Change::new();
    object.settle(app, None, &mut change).await?;
    change.create(&object)?.event(&app.event(
        object.reference(),
        Severity::Normal,
        &format!("{}Created", T::EVENT),
        format!("{} created {} '{}'", caller.name, T::KIND, object.name()),
    ))?;
    finish(app, change, object, query).await
}

async fn finish<T: Managed>(
    app: &App,
    change: Change,
    mut object: T,
    query: &WriteQuery,
) -> Result<Changed<T>, Problem> {
    if !query.dry_run {
        object.metadata_mut().revision = app.commit(change).await?;
        app.wakeups.networks.notify_one();
        app.wakeups.resources.notify_one();
    }
    Ok(Changed { object: app.model.decorate(&object), operation: None })
}

/// Creates it or changes it to what is sent.
pub async fn put<T: Managed>(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: T,
    query: &WriteQuery,
) -> Result<Changed<T>, Problem> {
    check_name(name, &sent)?;
    check(app, caller, &sent)?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<T>(name).await? else {
                if query.revision.is_some() || sent.metadata().revision != 0 {
                    return Err(Problem::not_found(T::KIND, name));
                }
                return make(app, caller, sent.clone(), query).await;
            };
            check_precondition(&current, sent.metadata(), query)?;
            let mut object = sent.clone().with_status_of(&current);
            let labels = object.metadata().labels.clone();
            *object.metadata_mut() = current.metadata().clone();
            object.metadata_mut().labels = labels;
            if object == current {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            }
            refuse(&object, object.wrong_changes(&current))?;
            refuse(&object, app.model.read(|tables| object.wrong_references(tables)))?;
            let mut change = Change::new();
            object.settle(app, Some(&current), &mut change).await?;
            change.update(&object)?;
            finish(app, change, object, query).await
        })
        .await
}

/// Refused while something names it.
pub async fn delete<T: Managed>(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &WriteQuery,
) -> Result<Changed<T>, Problem> {
    caller.may_change()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let object: T = app.objects.get(name).await?;
            check_precondition(&object, object.metadata(), query)?;
            let users = app.model.read(|tables| object.users(tables));
            if !users.is_empty() {
                let detail = format!("{} '{name}' is used by {}", T::KIND, users.join(", "));
                return Err(Problem::conflict(&format!("{}-in-use", T::KIND), detail)
                    .object(object.reference())
                    .remedy("take it out of these first, or delete them"));
            }
            let mut change = Change::new();
            object.unsettle(app, &mut change).await?;
            change.delete(&object).event(&app.event(
                object.reference(),
                Severity::Normal,
                &format!("{}Deleted", T::EVENT),
                format!("{} deleted {} '{name}'", caller.name, T::KIND),
            ))?;
            let gone = app.model.decorate(&object);
            if !query.dry_run {
                app.commit(change).await?;
                app.wakeups.networks.notify_one();
                app.wakeups.resources.notify_one();
            }
            Ok(Changed { object: gone, operation: None })
        })
        .await
}
