//! `gantry lab …`: the room is gantry_lab's; what is done through the API, and what is said, is here.

mod sample;
mod status;
mod up;
mod web;

use std::path::Path;

use anyhow::Context as _;
use gantry_lab::{Room, find, list};
use gantry_types::Name;

use crate::{
    args::LabCommand,
    commands::Session,
    context::Contexts,
    exit::Failure,
    output::{note, print},
};

pub async fn run(session: &Session, command: LabCommand) -> Result<(), Failure> {
    match command {
        LabCommand::Up(arguments) => up::up(&arguments).await,
        LabCommand::Status { name } => status::status(session, &room(session, name)?).await,
        LabCommand::List => status::list(session),
        LabCommand::Unplug { host, name } => {
            let (room, number) = host_in(session, name, &host)?;
            let killed = room.unplug(number)?;
            Ok(print(&format!("{host} has no power: {killed} processes died; back: gantry lab plug {host}\n"))?)
        }
        LabCommand::Plug { host, name } => {
            let (room, number) = host_in(session, name, &host)?;
            let pid = room.plug(number)?;
            Ok(print(&format!("{host} has power again, its agent is process {pid}\n"))?)
        }
        LabCommand::Cut { host, name } => {
            let (room, number) = host_in(session, name, &host)?;
            room.cut(number)?;
            Ok(print(&format!("the cable of {host} is cut; mend it: gantry lab mend {host}\n"))?)
        }
        LabCommand::Mend { host, name } => {
            let (room, number) = host_in(session, name, &host)?;
            room.mend(number)?;
            Ok(print(&format!("the cable of {host} is mended\n"))?)
        }
        LabCommand::Exec { host, name, command } => {
            let (room, number) = host_in(session, name, &host)?;
            exec(&room, number, &command)
        }
        LabCommand::PowerStrip { name } => Ok(Room::new(find(Some(&name))?).serve_power()?),
        // Not the current one: giving the command twice must not end a second lab.
        LabCommand::Down { name } => down(find(name.as_ref()).map(Room::new)?),
    }
}

/// The lab called `name`; else the one whose context is used, if it is one of this machine; else the only one.
fn room(session: &Session, name: Option<Name>) -> anyhow::Result<Room> {
    let name = match name {
        Some(name) => Some(name),
        None => {
            let contexts = Contexts::load()?;
            let context = session.context.as_deref().or(contexts.current.as_deref());
            list()?.into_iter().map(|lab| lab.name).find(|lab| context == Some(context_of(lab).as_str()))
        }
    };
    find(name.as_ref()).map(Room::new)
}

fn host_in(session: &Session, name: Option<Name>, host: &str) -> anyhow::Result<(Room, u8)> {
    let room = room(session, name)?;
    let number = room.host_number(host)?;
    Ok((room, number))
}

fn exec(room: &Room, host: u8, command: &[String]) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    let status = room
        .command(host, Path::new(program))
        .args(arguments)
        .status()
        .with_context(|| format!("'{program}' could not be run"))?;
    match status.code() {
        Some(0) => Ok(()),
        // Its own exit code is the answer; a signal is reported as shells do, only without its number.
        code => Err(Failure::Silent(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
    }
}

fn down(room: Room) -> Result<(), Failure> {
    room.down()?;
    let (name, context) = (room.record().name.clone(), context_name(&room));
    let mut contexts = Contexts::load()?;
    if contexts.contexts.remove(&context).is_some() {
        if contexts.current.as_deref() == Some(&context) {
            let labs = list()?;
            contexts.current =
                labs.iter().map(|lab| context_of(&lab.name)).find(|left| contexts.contexts.contains_key(left));
            match &contexts.current {
                Some(next) => note(&format!("context '{next}' is current now")),
                None if contexts.contexts.is_empty() => {}
                None => {
                    let left: Vec<_> = contexts.contexts.keys().map(String::as_str).collect();
                    note(&format!("no context is current; choose one: gantry context use {}", left.join("|")));
                }
            }
        }
        contexts.save()?;
    }
    if room.record().keep {
        note(&format!(
            "its state is kept in {}; gantry lab up --name {name} goes on",
            room.record().directory.display()
        ));
    }
    Ok(print(&format!("lab '{name}' is gone\n"))?)
}

/// The context by which a lab's controller is known.
fn context_name(room: &Room) -> String {
    context_of(&room.record().name)
}

fn context_of(lab: &Name) -> String {
    format!("lab-{lab}")
}
