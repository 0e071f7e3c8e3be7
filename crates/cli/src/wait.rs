//! Waiting for an object to be in a state.
//!
//! Level-triggered: each look at the object decides anew. A watch tells when to look; because a watch can break and
//! some state is not stored, the object is also read now and then. A controller that does not answer is asked again
//! until the caller's limit.

use std::{ops::ControlFlow, str::FromStr, time::Duration};

use gantry_api::rest::ListQuery;
use gantry_types::{ErrorClass, Problem, Resource};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    client::{Client, Watch},
    kind::Kind,
};

/// The longest time without a look.
const RECHECK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(500);

/// What `wait --for` can wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Ready,
    Running,
    Stopped,
    Deleted,
    Finished,
    Phase(String),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "ready" => Self::Ready,
            "running" => Self::Running,
            "stopped" => Self::Stopped,
            "deleted" | "delete" => Self::Deleted,
            "finished" => Self::Finished,
            _ => match text.strip_prefix("phase=") {
                Some(phase) if !phase.is_empty() => Self::Phase(phase.to_ascii_lowercase()),
                _ => {
                    return Err(format!(
                        "'{text}' is not a condition: use ready, running, stopped, deleted, finished or phase=PHASE"
                    ));
                }
            },
        })
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Running => f.write_str("running"),
            Self::Stopped => f.write_str("stopped"),
            Self::Deleted => f.write_str("deleted"),
            Self::Finished => f.write_str("finished"),
            Self::Phase(phase) => write!(f, "in phase {phase}"),
        }
    }
}

/// Whether a condition holds, or can't any more.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    NotYet,
    /// It has failed, and nothing but somebody's action changes that.
    Hopeless(String),
}

impl Condition {
    /// # Errors
    /// If it names a phase that objects of this kind never have: waiting for it would never end.
    pub fn check(&self, kind: Kind) -> Result<(), Problem> {
        let Self::Phase(phase) = self else { return Ok(()) };
        let known = kind.phases();
        if known.contains(&phase.as_str()) {
            return Ok(());
        }
        let remedy = match known {
            [] => format!("wait for something else; a {kind} has no phases"),
            known => format!("use one of {}", known.join(", ")),
        };
        Err(Problem::invalid("unknown-phase", format!("no {kind} is ever in phase '{phase}'")).remedy(remedy))
    }

    /// Judges an object as the API shows it; nothing if it does not exist.
    pub fn judge(&self, object: Option<&Value>) -> Verdict {
        let Some(object) = object else {
            return if *self == Self::Deleted { Verdict::Met } else { Verdict::Hopeless("it does not exist".into()) };
        };
        let status = &object["status"];
        // Hosts have a state where others have a phase.
        let phase = status["phase"].as_str().or(status["state"].as_str()).unwrap_or_default();
        let met = match self {
            Self::Ready => status["ready"].as_bool().unwrap_or(phase == "ready"),
            Self::Running => phase == "running",
            Self::Stopped => phase == "stopped",
            Self::Deleted => false,
            Self::Finished => matches!(phase, "succeeded" | "failed" | "cancelled"),
            Self::Phase(wanted) => phase == wanted,
        };
        if met {
            return Verdict::Met;
        }
        if matches!(self, Self::Ready | Self::Running) && phase == "failed" {
            let reason = status["reason"].as_str().unwrap_or("no reason was recorded");
            return Verdict::Hopeless(format!("it has failed: {reason}"));
        }
        Verdict::NotYet
    }
}

/// Waits until `condition` holds for the object, or `limit` has passed.
pub async fn wait_for<T: Resource>(
    client: &Client,
    name: &str,
    condition: &Condition,
    limit: Duration,
) -> Result<(), Problem> {
    let look = |object: Option<&T>| {
        let value = match object.map(serde_json::to_value).transpose() {
            Ok(value) => value,
            Err(error) => return ControlFlow::Break(Err(Problem::permanent("unreadable-answer", error.to_string()))),
        };
        match condition.judge(value.as_ref()) {
            Verdict::Met => ControlFlow::Break(Ok(())),
            Verdict::NotYet => ControlFlow::Continue(()),
            Verdict::Hopeless(_) if object.is_none() => ControlFlow::Break(Err(Problem::not_found(T::KIND, name))),
            Verdict::Hopeless(reason) => ControlFlow::Break(Err(Problem::permanent(
                "hopeless",
                format!("{} '{name}' will not become {condition}: {reason}", T::KIND),
            )
            .remedy(format!("see what happened: gantry describe {} {name}", T::KIND)))),
        }
    };
    observe::<T, _>(client, name, Instant::now() + limit, look).await?.unwrap_or_else(|| {
        Err(Problem::transient(
            "timeout",
            format!("{} '{name}' is not {condition} after {} s", T::KIND, limit.as_secs()),
        )
        .remedy(format!("see what it is doing: gantry describe {} {name}", T::KIND)))
    })
}

/// Shows the object to `look` at first and after each change, until it breaks (its value is returned) or `deadline`
/// passes (nothing is returned). A controller that can't be reached until then is an error.
pub async fn observe<T: Resource, R>(
    client: &Client,
    name: &str,
    deadline: Instant,
    mut look: impl FnMut(Option<&T>) -> ControlFlow<R>,
) -> Result<Option<R>, Problem> {
    let mut watch: Option<Watch<T>> = None;
    let mut unreachable: Option<Problem> = None;
    while Instant::now() < deadline {
        let object = match client.get::<T>(name).await {
            Ok(object) => Some(object),
            Err(problem) if problem.class == ErrorClass::NotFound => None,
            Err(problem) if problem.is_transient() => {
                watch = None;
                unreachable = Some(problem);
                sleep(PAUSE).await;
                continue;
            }
            Err(problem) => return Err(problem),
        };
        unreachable = None;
        if let ControlFlow::Break(result) = look(object.as_ref()) {
            return Ok(Some(result));
        }
        let (recheck, revision) = (Instant::now() + RECHECK, object.map(|object| object.metadata().revision));
        match next_change(client, name, &mut watch, revision, recheck.min(deadline)).await {
            Ok(()) => {}
            // Not being able to watch only makes it slower.
            Err(_) => {
                watch = None;
                sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
        }
    }
    match unreachable {
        Some(problem) => Err(problem),
        None => Ok(None),
    }
}

/// Returns when something about the object may have changed, at the latest at `until`.
async fn next_change<T: Resource>(
    client: &Client,
    name: &str,
    watch: &mut Option<Watch<T>>,
    revision: Option<u64>,
    until: Instant,
) -> Result<(), Problem> {
    let changed = async {
        let watch = match watch {
            Some(watch) => watch,
            None => {
                let query = ListQuery { revision, ..ListQuery::default() };
                watch.insert(client.watch::<T>(&query).await?)
            }
        };
        loop {
            let event = watch.next().await?;
            if event.object.is_some_and(|object| object.name() == name) {
                return Ok(());
            }
        }
    };
    timeout_at(until, changed).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_judged_by_what_is() {
        let running = json!({"status": {"phase": "running", "ready": false}});
        let ready_host = json!({"status": {"state": "ready"}});
        let failed = json!({"status": {"phase": "failed", "reason": "no room"}});
        let judge = |condition: &str, object: Option<&Value>| condition.parse::<Condition>().unwrap().judge(object);
        assert_eq!(judge("running", Some(&running)), Verdict::Met);
        assert_eq!(judge("ready", Some(&running)), Verdict::NotYet, "it runs, its guest has not answered");
        assert_eq!(judge("ready", Some(&ready_host)), Verdict::Met);
        assert_eq!(judge("phase=Failed", Some(&failed)), Verdict::Met);
        assert_eq!(judge("deleted", Some(&failed)), Verdict::NotYet);
        assert_eq!(judge("deleted", None), Verdict::Met);
        assert_eq!(judge("finished", Some(&failed)), Verdict::Met);
        assert!(matches!(judge("ready", Some(&failed)), Verdict::Hopeless(reason) if reason.contains("no room")));
        assert!(matches!(judge("running", None), Verdict::Hopeless(_)));
        let check = |condition: &str, kind| condition.parse::<Condition>().unwrap().check(kind);
        assert_eq!(check("phase=Lost", Kind::Host), Ok(()));
        assert_eq!(check("ready", Kind::Event), Ok(()));
        let unknown = check("phase=runing", Kind::Vm).unwrap_err();
        assert!(unknown.remedy.unwrap().contains("pending, starting, running"));
        assert!(check("phase=ready", Kind::Network).is_err());
        for bad in ["", "phase=", "up", "ready=yes"] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
    }
}
