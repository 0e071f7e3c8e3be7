//! `gantry alarm …` and `gantry receiver …`

use std::time::Duration;

use gantry_api::alarms::{AcknowledgeRequest, SilenceRequest};
use gantry_types::{Alarm, ErrorClass, Notice, NoticePhase, Problem, Receiver, Resource};

use super::{Session, announce, networking::delete, objects};
use crate::{
    args::{AlarmCommand, AlarmSilence, ReceiverCommand},
    exit::Failure,
    kind::Kind,
    output::{is_active, print},
};

/// A mail server may take that long.
const TEST_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(250);

pub async fn alarms(session: &Session, command: AlarmCommand) -> Result<(), Failure> {
    match command {
        AlarmCommand::List(list) => {
            objects::list::<Alarm>(session, &list.options, |alarm| !list.active || is_active(alarm)).await
        }
        AlarmCommand::Show { name } => objects::show_all::<Alarm>(session, &name).await,
        AlarmCommand::Acknowledge { name, object } => {
            let changed = session.client()?.acknowledge(&name, &AcknowledgeRequest { object }).await?;
            Ok(announce(session.printer, &changed.object, "acknowledged")?)
        }
        AlarmCommand::Silence(arguments) => silence(session, arguments).await,
        AlarmCommand::Delete { names } => delete(session, Kind::Alarm, &names).await,
    }
}

async fn silence(session: &Session, arguments: AlarmSilence) -> Result<(), Failure> {
    let AlarmSilence { name, duration, object, why, .. } = arguments;
    let for_s = u32::try_from(duration.unwrap_or_default().as_secs()).unwrap_or(u32::MAX);
    let changed = session.client()?.silence(&name, &SilenceRequest { object, for_s, why }).await?;
    let done = if for_s == 0 { "no longer silenced" } else { "silenced" };
    Ok(announce(session.printer, &changed.object, done)?)
}

pub async fn receivers(session: &Session, command: ReceiverCommand) -> Result<(), Failure> {
    match command {
        ReceiverCommand::List(options) => objects::list::<Receiver>(session, &options, |_| true).await,
        ReceiverCommand::Show { name } => objects::show_all::<Receiver>(session, &name).await,
        ReceiverCommand::Test { name } => test(session, &name).await,
        ReceiverCommand::Delete { names } => delete(session, Kind::Receiver, &names).await,
    }
}

/// Says what became of the first attempt.
async fn test(session: &Session, name: &str) -> Result<(), Failure> {
    let client = session.client()?;
    let mut notice = client.test_receiver(name).await?.object;
    let until = tokio::time::Instant::now() + TEST_LIMIT;
    while notice.status.attempts == 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(POLL).await;
        notice = client.get::<Notice>(notice.name()).await?;
    }
    let status = &notice.status;
    if status.phase == NoticePhase::Delivered {
        return Ok(print(&format!("receiver/{name} has been told\n"))?);
    }
    let why = status.error.clone().unwrap_or_else(|| format!("nothing came of it within {} s", TEST_LIMIT.as_secs()));
    let problem = Problem::new(ErrorClass::Transient, "notice-not-delivered", format!("receiver '{name}': {why}"));
    Err(problem.remedy(format!("it is tried again; see: gantry get notice {}", notice.name())).into())
}
