//! `gantry policy …`

use gantry_api::rest::WriteQuery;
use gantry_types::{ErrorClass, MAIN_CLUSTER, Name, Policy, PolicySpec, Problem, SchedulePolicy};

use super::{Session, announce, apply, objects};
use crate::{
    args::{BalanceSet, Days, FollowOptions, PolicyCommand, PolicySet, PowerSet, ScheduleSet, StorageSet},
    client::Client,
    exit::Failure,
    follow::follow,
    kind::Kind,
};

pub async fn run(session: &Session, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::List(options) => objects::list::<Policy>(session, &options, |_| true).await,
        PolicyCommand::Show { name } => objects::show_all::<Policy>(session, &name).await,
        PolicyCommand::Set(PolicySet::Balance(arguments)) => set_balance(session, arguments).await,
        PolicyCommand::Set(PolicySet::Storage(arguments)) => set_storage(session, arguments).await,
        PolicyCommand::Set(PolicySet::Power(arguments)) => set_power(session, arguments).await,
        PolicyCommand::Set(PolicySet::Schedule(arguments)) => set_schedule(session, arguments).await,
        PolicyCommand::Apply { name, id, follow: options } => {
            let client = session.client()?;
            let operation = client.apply_recommendation(&name, &id).await?;
            if options.no_wait {
                return Ok(announce(session.printer, &operation, "is at work")?);
            }
            Ok(announce(session.printer, &follow(&client, &operation).await?, "succeeded")?)
        }
        PolicyCommand::Delete { names } => {
            apply::delete_named(session, Kind::Policy, &names, FollowOptions::default()).await
        }
    }
}

/// The cluster's policy of this sort; a new one if there is none.
async fn current(client: &Client, rule: &str, cluster: &Name) -> Result<(Policy, bool), Problem> {
    let policies: Vec<Policy> = client.list(None).await?;
    let found = policies.into_iter().find(|policy| policy.spec.cluster == *cluster && policy.spec.rule() == rule);
    if let Some(policy) = found {
        return Ok((policy, false));
    }
    let name = if cluster.as_str() == MAIN_CLUSTER { rule.to_owned() } else { format!("{rule}-{cluster}") };
    let name = name.parse().map_err(|error: gantry_types::InvalidName| {
        Problem::invalid("invalid-name", format!("{error}")).remedy("give it a shorter name in a file: gantry apply -f")
    })?;
    let spec = PolicySpec { cluster: cluster.clone(), balance: None, storage: None, power: None, schedule: None };
    Ok((Policy::new(name, spec), true))
}

async fn write(session: &Session, client: &Client, policy: &Policy, is_new: bool) -> Result<(), Failure> {
    let query = WriteQuery::default();
    let changed = if is_new { client.create(policy, &query).await? } else { client.update(policy, &query).await? };
    Ok(announce(session.printer, &changed.object, if is_new { "created" } else { "changed" })?)
}

async fn set_balance(session: &Session, arguments: BalanceSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut policy, is_new) = current(&client, "balance", &arguments.place.cluster).await?;
    let rule = policy.spec.balance.get_or_insert_default();
    rule.mode = arguments.place.mode.map_or(rule.mode, Into::into);
    rule.interval_s = arguments.place.interval.unwrap_or(rule.interval_s);
    rule.comfortable_percent = arguments.comfortable.unwrap_or(rule.comfortable_percent);
    rule.max_moves = arguments.max_moves.unwrap_or(rule.max_moves);
    rule.hold_down_s = arguments.hold_down.unwrap_or(rule.hold_down_s);
    write(session, &client, &policy, is_new).await
}

async fn set_storage(session: &Session, arguments: StorageSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut policy, is_new) = current(&client, "storage", &arguments.place.cluster).await?;
    let rule = policy.spec.storage.get_or_insert_default();
    rule.mode = arguments.place.mode.map_or(rule.mode, Into::into);
    rule.interval_s = arguments.place.interval.unwrap_or(rule.interval_s);
    rule.limit_percent = arguments.limit.unwrap_or(rule.limit_percent);
    rule.max_moves = arguments.max_moves.unwrap_or(rule.max_moves);
    rule.hold_down_s = arguments.hold_down.unwrap_or(rule.hold_down_s);
    write(session, &client, &policy, is_new).await
}

async fn set_power(session: &Session, arguments: PowerSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut policy, is_new) = current(&client, "power", &arguments.place.cluster).await?;
    let rule = policy.spec.power.get_or_insert_default();
    rule.mode = arguments.place.mode.map_or(rule.mode, Into::into);
    rule.interval_s = arguments.place.interval.unwrap_or(rule.interval_s);
    rule.spare = arguments.spare.unwrap_or(rule.spare);
    rule.hold_down_s = arguments.hold_down.unwrap_or(rule.hold_down_s);
    write(session, &client, &policy, is_new).await
}

async fn set_schedule(session: &Session, arguments: ScheduleSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut policy, is_new) = match client.get::<Policy>(arguments.name.as_str()).await {
        Ok(policy) => (policy, false),
        Err(problem) if problem.class == ErrorClass::NotFound => (new_schedule(&arguments)?, true),
        Err(problem) => return Err(problem.into()),
    };
    let name = arguments.name.clone();
    let Some(rule) = policy.spec.schedule.as_mut() else {
        let detail = format!("policy '{name}' is no schedule, it is for {}", policy.spec.rule());
        return Err(Problem::conflict("no-schedule", detail).remedy("give the schedule another name").into());
    };
    rule.vms = arguments.vms.unwrap_or(std::mem::take(&mut rule.vms));
    rule.hosts = arguments.hosts.unwrap_or(std::mem::take(&mut rule.hosts));
    rule.from = arguments.from.unwrap_or(std::mem::take(&mut rule.from));
    rule.until = arguments.until.unwrap_or(std::mem::take(&mut rule.until));
    if let Some(Days(days)) = arguments.days {
        rule.days = days;
    }
    rule.max_moves = arguments.max_moves.unwrap_or(rule.max_moves);
    policy.spec.cluster = arguments.cluster.unwrap_or(policy.spec.cluster);
    write(session, &client, &policy, is_new).await
}

fn new_schedule(arguments: &ScheduleSet) -> Result<Policy, Problem> {
    let needed = |value: &Option<String>, option: &str| {
        value.clone().ok_or_else(|| {
            Problem::invalid("invalid-request", format!("schedule '{}' is new and needs {option}", arguments.name))
                .remedy("give --vms, --hosts, --from and --until; see: gantry policy set schedule --help")
        })
    };
    let rule = SchedulePolicy {
        vms: needed(&arguments.vms, "--vms")?,
        hosts: needed(&arguments.hosts, "--hosts")?,
        from: needed(&arguments.from, "--from")?,
        until: needed(&arguments.until, "--until")?,
        days: Vec::new(),
        max_moves: 2,
    };
    let cluster = match &arguments.cluster {
        Some(cluster) => cluster.clone(),
        None => MAIN_CLUSTER.parse().map_err(|error| Problem::permanent("invalid-name", format!("{error}")))?,
    };
    let spec = PolicySpec { cluster, balance: None, storage: None, power: None, schedule: Some(rule) };
    Ok(Policy::new(arguments.name.clone(), spec))
}
