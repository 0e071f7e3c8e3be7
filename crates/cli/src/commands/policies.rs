//! `gantry policy …`

use gantry_api::rest::WriteQuery;
use gantry_types::{MAIN_CLUSTER, Name, Policy, PolicySpec, Problem};

use super::{Session, announce, apply, objects};
use crate::{
    args::{BalanceSet, FollowOptions, PolicyCommand, PolicySet, PowerSet},
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
        PolicyCommand::Set(PolicySet::Power(arguments)) => set_power(session, arguments).await,
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
    let spec = PolicySpec { cluster: cluster.clone(), balance: None, power: None, schedule: None };
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
