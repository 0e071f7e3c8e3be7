//! Commands that work on any kind of object: get, describe, wait, and the lists of all families.

use std::{collections::BTreeMap, time::Duration};

use gantry_api::rest::{Change, ListQuery};
use gantry_types::{Event, Host, ObjectRef, Operation, Problem, Resource, Vm};
use tokio::time::sleep;

use super::Session;
use crate::{
    args::{EventCommand, Format, Get, ListOptions, Wait},
    client::Client,
    exit::Failure,
    kind::{Kind, with_kind},
    output::{self, Row, Surroundings, Table, note, now, print},
};

/// Before a broken watch is opened again.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn get(session: &Session, get: &Get) -> Result<(), Failure> {
    with_kind!(get.kind, T => match &get.name {
        None => list::<T>(session, &get.list, |_| true).await,
        Some(name) if get.list.watch => {
            session.client()?.get::<T>(name).await?;
            list::<T>(session, &get.list, |object: &T| object.name() == name).await
        }
        Some(name) => show::<T>(session, name).await,
    })
}

/// One object as a row, or whole in JSON or YAML.
pub async fn show<T: Row>(session: &Session, name: &str) -> Result<(), Failure> {
    let client = session.client()?;
    let object = client.get::<T>(name).await?;
    if session.printer.is_structured() {
        return Ok(session.printer.one(&object)?);
    }
    let around = surroundings::<T>(session, &client).await?;
    Ok(session.printer.list(&[object], &around)?)
}

/// `show NAME` of a family: everything for people, the object for programs.
pub async fn show_all<T: Row>(session: &Session, name: &str) -> Result<(), Failure> {
    if session.printer.is_structured() {
        show::<T>(session, name).await
    } else {
        describe_one::<T>(session, name).await
    }
}

/// All objects that `wanted` lets through; goes on with changes if that was asked for.
pub async fn list<T: Row>(
    session: &Session,
    options: &ListOptions,
    wanted: impl Fn(&T) -> bool,
) -> Result<(), Failure> {
    let client = session.client()?;
    if options.watch {
        return watch(session, &client, options, wanted).await;
    }
    let mut objects: Vec<T> = client.list(options.selector.as_deref()).await?;
    objects.retain(|object| wanted(object));
    in_order(&mut objects);
    let around = surroundings::<T>(session, &client).await?;
    Ok(session.printer.list(&objects, &around)?)
}

/// The API lists by name. What happened is read in the order in which it happened, and its names say nothing.
fn in_order<T: Resource>(objects: &mut [T]) {
    if [Operation::KIND, Event::KIND].contains(&T::KIND) {
        objects.sort_by_key(|object| object.metadata().created_at);
    }
}

/// Hosts are shown with the number of their VMs, which is nowhere in a host.
async fn surroundings<T: Row>(session: &Session, client: &Client) -> Result<Surroundings, Problem> {
    let mut around = Surroundings::at(now());
    if T::KIND == Host::KIND && !session.printer.is_structured() {
        let mut counts = BTreeMap::new();
        for vm in client.list::<Vm>(None).await? {
            if let Some(host) = vm.status.host {
                *counts.entry(host.to_string()).or_insert(0) += 1;
            }
        }
        around.vms_of_hosts = Some(counts);
    }
    Ok(around)
}

/// Prints a row (or document) for each object and each change, until interrupted. Survives the controller's restarts.
async fn watch<T: Row>(
    session: &Session,
    client: &Client,
    options: &ListOptions,
    wanted: impl Fn(&T) -> bool,
) -> Result<(), Failure> {
    let mut query = ListQuery { selector: options.selector.clone(), ..ListQuery::default() };
    let mut rows = Rows::new();
    let mut told = false;
    loop {
        let mut place = Place { resumable: query.revision.is_some() };
        if !place.resumable && rows.first.is_some() {
            // What was gathered of a listing that broke off comes again.
            rows = Rows::new();
        }
        let problem = match client.watch::<T>(&query).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(event) => {
                        told = false;
                        query.revision = query.revision.max(place.after(event.change, event.revision));
                        rows.take(session, event.change, event.object.filter(|object| wanted(object)))?;
                    }
                    Err(problem) => break problem,
                }
            },
            Err(problem) => problem,
        };
        match problem.code() {
            // What was missed can't be told any more: begin again with all objects.
            "revision-too-old" => query.revision = None,
            _ if problem.is_transient() => {
                if !told && problem.code() != "watch-ended" {
                    note(&format!("{}; trying again", problem.detail));
                    told = true;
                }
                sleep(PAUSE).await;
            }
            _ => return Err(problem.into()),
        }
    }
}

/// Whether a watch has come so far that it can be resumed.
struct Place {
    resumable: bool,
}

impl Place {
    /// Where to go on after this event. The first objects come by name: until the bookmark behind them no revision says
    /// what is still missing.
    fn after(&mut self, change: Change, revision: u64) -> Option<u64> {
        self.resumable |= change == Change::Bookmark;
        Some(revision).filter(|revision| self.resumable && *revision > 0)
    }
}

/// What a watch prints: first all objects at once, so that their columns fit, then each change below them.
struct Rows<T> {
    first: Option<Vec<T>>,
    widths: Vec<usize>,
}

impl<T: Row> Rows<T> {
    fn new() -> Self {
        Self { first: Some(Vec::new()), widths: Vec::new() }
    }

    fn take(&mut self, session: &Session, change: Change, object: Option<T>) -> Result<(), Problem> {
        let is_table = !session.printer.is_structured();
        match (&mut self.first, object) {
            (Some(first), Some(object)) if is_table && change == Change::Added => {
                first.push(object);
                Ok(())
            }
            (_, object) => {
                if let Some(mut first) = self.first.take() {
                    in_order(&mut first);
                    self.print(session, &first, "")?;
                }
                let gone = if change == Change::Deleted { "  (deleted)" } else { "" };
                object.map_or(Ok(()), |object| self.print(session, &[object], gone))
            }
        }
    }

    fn print(&mut self, session: &Session, objects: &[T], mark: &str) -> Result<(), Problem> {
        let text = match session.printer.format {
            Format::Json => objects.iter().map(one_line).collect::<Result<String, _>>()?,
            Format::Yaml => {
                let documents: Result<Vec<_>, _> = objects.iter().map(output::yaml).collect();
                documents?.iter().map(|document| format!("---\n{document}")).collect()
            }
            Format::Name => objects.iter().map(|object| format!("{}/{}\n", T::KIND, object.name())).collect(),
            Format::Table | Format::Wide if objects.is_empty() => String::new(),
            Format::Table | Format::Wide => {
                let wide = session.printer.format == Format::Wide;
                let text = Table::of(objects, wide, &Surroundings::at(now())).render_below(&mut self.widths);
                format!("{}{mark}\n", text.trim_end_matches('\n'))
            }
        };
        print(&text)
    }
}

fn one_line(object: &impl Resource) -> Result<String, Problem> {
    let text = serde_json::to_string(object);
    text.map(|line| line + "\n").map_err(|error| Problem::permanent("unprintable", error.to_string()))
}

pub async fn describe(session: &Session, kind: Kind, name: &str) -> Result<(), Failure> {
    with_kind!(kind, T => describe_one::<T>(session, name).await)
}

async fn describe_one<T: Resource>(session: &Session, name: &str) -> Result<(), Failure> {
    let client = session.client()?;
    let object = client.get::<T>(name).await?;
    let about = |reference: &ObjectRef| reference.kind == T::KIND && reference.name == object.metadata().name;
    let mut events = client.list::<Event>(None).await?;
    events.retain(|event| about(&event.spec.regarding));
    in_order(&mut events);
    let mut operations = client.list::<Operation>(None).await?;
    operations.retain(|operation| about(&operation.spec.target));
    in_order(&mut operations);
    Ok(print(&output::describe(&object, &events, &operations, now()))?)
}

pub async fn wait(session: &Session, wait: &Wait) -> Result<(), Failure> {
    wait.condition.check(wait.kind)?;
    let client = session.client()?;
    with_kind!(wait.kind, T => crate::wait::wait_for::<T>(&client, &wait.name, &wait.condition, wait.timeout).await)?;
    Ok(print(&format!("{}/{} is {}\n", wait.kind, wait.name, wait.condition))?)
}

pub async fn events(session: &Session, command: EventCommand) -> Result<(), Failure> {
    let EventCommand::List { regarding, list: options } = command;
    let regarding = regarding.as_deref().map(parse_reference).transpose()?;
    let wanted = |event: &Event| {
        regarding.as_ref().is_none_or(|(kind, name)| {
            event.spec.regarding.kind == kind.singular() && event.spec.regarding.name.as_str() == name
        })
    };
    list::<Event>(session, &options, wanted).await
}

/// `vm/web`
fn parse_reference(text: &str) -> Result<(Kind, String), Problem> {
    let malformed = |reason: String| {
        Problem::invalid("invalid-reference", format!("'{text}' names no object: {reason}"))
            .remedy("write it as KIND/NAME, for example vm/web")
    };
    let (kind, name) = text.split_once('/').ok_or_else(|| malformed("there is no '/' in it".to_owned()))?;
    Ok((kind.parse().map_err(malformed)?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_resumed_only_from_the_bookmark_on() {
        let mut begun = Place { resumable: false };
        assert_eq!(begun.after(Change::Added, 9), None, "objects with smaller revisions may still come");
        assert_eq!(begun.after(Change::Bookmark, 12), Some(12));
        assert_eq!(begun.after(Change::Modified, 13), Some(13));
        assert_eq!(begun.after(Change::Modified, 0), None);
        assert_eq!(Place { resumable: true }.after(Change::Modified, 14), Some(14));
    }
}
