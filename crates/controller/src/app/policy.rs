//! Policies: create, change, delete. The loops read them anew in each pass, so a change takes effect at once.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Policy, PolicySpec, PolicyStatus, Problem, Resource, Severity};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition, cluster};
use crate::objects::Change;

pub async fn create(app: &App, caller: &Caller, sent: Policy, query: &WriteQuery) -> Result<Changed<Policy>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    sent.spec.validate()?;
    // Alone, so that a cluster does not get two policies of a sort that are made at once.
    let _alone = app.references.write().await;
    let mut policy = Policy::new(sent.metadata.name.clone(), sent.spec.clone());
    policy.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut policy.metadata);
    if app.objects.find::<Policy>(policy.name()).await?.is_some() {
        return Err(already_exists(&policy));
    }
    check_place(app, &policy)?;
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&policy)?.event(&app.event(
            policy.reference(),
            Severity::Normal,
            "PolicyCreated",
            format!("{} created policy '{}': {}", caller.name, policy.name(), summary(&policy.spec)),
        ))?;
        policy.metadata.revision = app.commit(change).await?;
        app.wakeups.policies.notify_one();
    }
    Ok(Changed { object: policy, operation: None })
}

fn summary(spec: &PolicySpec) -> String {
    let mode = match spec.mode() {
        gantry_types::PolicyMode::Off => "off",
        gantry_types::PolicyMode::Advise => "advise",
        gantry_types::PolicyMode::Automatic => "automatic",
    };
    format!("{} {mode} for cluster '{}'", spec.rule(), spec.cluster)
}

/// Creates the policy or changes it to what is sent.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Policy,
    query: &WriteQuery,
) -> Result<Changed<Policy>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.spec.validate()?;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<Policy>(name).await? else {
                if query.revision.is_some() || sent.metadata.revision != 0 {
                    return Err(Problem::not_found(Policy::KIND, name));
                }
                return create(app, caller, sent.clone(), query).await;
            };
            let _alone = app.references.write().await;
            check_precondition(&current, &sent.metadata, query)?;
            let mut policy = current.clone();
            policy.spec = sent.spec.clone();
            policy.metadata.labels = sent.metadata.labels.clone();
            if policy == current {
                return Ok(Changed { object: policy, operation: None });
            }
            check_place(app, &policy)?;
            // What it found was found under other rules.
            policy.status = PolicyStatus::default();
            if !query.dry_run {
                let mut change = Change::new();
                change.update(&policy)?.event(&app.event(
                    policy.reference(),
                    Severity::Normal,
                    "PolicyChanged",
                    format!("{} changed policy '{name}': {}", caller.name, summary(&policy.spec)),
                ))?;
                policy.metadata.revision = app.commit(change).await?;
                app.wakeups.policies.notify_one();
            }
            Ok(Changed { object: policy, operation: None })
        })
        .await
}

/// Its cluster exists and has no other policy of the sort.
fn check_place(app: &App, policy: &Policy) -> Result<(), Problem> {
    let wrong = Problem::invalid("invalid-policy", format!("policy '{}' can't be made like this", policy.name()));
    cluster::check_reference(app, &policy.spec.cluster, wrong)?;
    if policy.spec.schedule.is_some() {
        return Ok(());
    }
    let other = app.model.read(|tables| {
        let mut others = tables.policies.values().filter(|other| other.metadata.name != policy.metadata.name);
        let (cluster, rule) = (&policy.spec.cluster, policy.spec.rule());
        others.find(|other| other.spec.cluster == *cluster && other.spec.rule() == rule).cloned()
    });
    let Some(other) = other else { return Ok(()) };
    let (cluster, rule) = (&policy.spec.cluster, policy.spec.rule());
    let detail = format!("cluster '{cluster}' has a policy for {rule} already: '{}'", other.name());
    Err(Problem::conflict("policy-exists", detail)
        .object(other.reference())
        .remedy(format!("change that one: gantry policy set {rule} --cluster {cluster}, or delete it first")))
}

pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let policy: Policy = app.objects.get(name).await?;
            check_precondition(&policy, &policy.metadata, query)?;
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            change.delete(&policy).event(&app.event(
                policy.reference(),
                Severity::Normal,
                "PolicyDeleted",
                format!("{} deleted policy '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}
