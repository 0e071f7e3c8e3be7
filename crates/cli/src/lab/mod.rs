//! `gantry lab …`: the room is gantry_lab's; what is done through the API, and what is said, is here.

mod sample;
mod status;
mod up;

use std::path::Path;

use anyhow::Context as _;
use gantry_lab::{Room, find};
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
        LabCommand::Status { name } => status::status(session, &room(name.as_ref())?).await,
        LabCommand::List => status::list(session),
        LabCommand::Unplug { host, name } => {
            let (room, number) = host_in(name.as_ref(), &host)?;
            let killed = room.unplug(number)?;
            Ok(print(&format!("{host} has no power: {killed} processes died; back: gantry lab plug {host}\n"))?)
        }
        LabCommand::Plug { host, name } => {
            let (room, number) = host_in(name.as_ref(), &host)?;
            let pid = room.plug(number)?;
            Ok(print(&format!("{host} has power again, its agent is process {pid}\n"))?)
        }
        LabCommand::Cut { host, name } => {
            let (room, number) = host_in(name.as_ref(), &host)?;
            room.cut(number)?;
            Ok(print(&format!("the cable of {host} is cut; mend it: gantry lab mend {host}\n"))?)
        }
        LabCommand::Mend { host, name } => {
            let (room, number) = host_in(name.as_ref(), &host)?;
            room.mend(number)?;
            Ok(print(&format!("the cable of {host} is mended\n"))?)
        }
        LabCommand::Exec { host, name, command } => {
            let (room, number) = host_in(name.as_ref(), &host)?;
            exec(&room, number, &command)
        }
        LabCommand::Down { name } => down(name.as_ref()),
    }
}

fn room(name: Option<&Name>) -> anyhow::Result<Room> {
    find(name).map(Room::new)
}

fn host_in(name: Option<&Name>, host: &str) -> anyhow::Result<(Room, u8)> {
    let room = room(name)?;
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

fn down(name: Option<&Name>) -> Result<(), Failure> {
    let room = room(name)?;
    room.down()?;
    let (name, context) = (room.record().name.clone(), context_name(&room));
    let mut contexts = Contexts::load()?;
    if contexts.contexts.remove(&context).is_some() {
        if contexts.current.as_deref() == Some(&context) {
            contexts.current = None;
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
    format!("lab-{}", room.record().name)
}
