//! `gantry context …`

use std::path::Path;

use gantry_types::Problem;
use serde_json::json;

use super::Session;
use crate::{
    args::{ContextAdd, ContextCommand},
    context::{Context, Contexts},
    exit::Failure,
    output::{Table, note, print, terminal_width},
};

pub fn run(session: &Session, command: ContextCommand) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::List => list(session, &contexts),
        ContextCommand::Use { name } => {
            contexts.choose(Some(&name))?;
            contexts.current = Some(name.clone());
            contexts.save()?;
            Ok(print(&format!("context/{name} is current\n"))?)
        }
        ContextCommand::Add(arguments) => {
            let context = context_of(&arguments)?;
            let name = arguments.name.to_string();
            contexts.add(&name, context)?;
            contexts.save()?;
            let now = if contexts.current.as_deref() == Some(&name) { " and current" } else { "" };
            Ok(print(&format!("context/{name} added{now}\n"))?)
        }
        ContextCommand::Delete { name } => {
            contexts.remove(&name)?;
            contexts.save()?;
            Ok(print(&format!("context/{name} deleted\n"))?)
        }
        ContextCommand::Show { name } => {
            let (name, context) = contexts.choose(name.as_deref().or(session.context.as_deref()))?;
            // The token stays in the file: this is what gets pasted into a question to somebody.
            let value = json!({ "name": name, "url": context.url, "ca": context.ca });
            Ok(session.printer.value(&value, || format!("name: {name}\nurl: {}\n{}", context.url, context.ca))?)
        }
    }
}

fn context_of(arguments: &ContextAdd) -> Result<Context, Problem> {
    if !arguments.url.starts_with("https://") {
        return Err(Problem::invalid("invalid-context", format!("'{}' is no controller's URL", arguments.url))
            .remedy("write it as https://ADDRESS:PORT"));
    }
    let ca = read(&arguments.ca)?;
    let token = read(&arguments.token_file)?.trim().to_owned();
    let context = Context { url: arguments.url.clone(), ca, token };
    // Refuses a CA that is none.
    context.client(arguments.name.as_str())?;
    Ok(context)
}

fn read(file: &Path) -> Result<String, Problem> {
    let text =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    text.map_err(|error| {
        Problem::invalid("unreadable-file", format!("'{}' could not be read: {error}", file.display()))
            .remedy("check the path; the CA's certificate and the token are text")
    })
}

fn list(session: &Session, contexts: &Contexts) -> Result<(), Failure> {
    let is_current = |name: &str| contexts.current.as_deref() == Some(name);
    let all: Vec<_> = contexts
        .contexts
        .iter()
        .map(|(name, context)| json!({ "name": name, "url": context.url, "current": is_current(name) }))
        .collect();
    if all.is_empty() && !session.printer.is_structured() {
        note("no contexts");
        return Ok(());
    }
    let text = || {
        let mut table = Table::new(&["CURRENT", "NAME", "URL"]);
        for (name, context) in &contexts.contexts {
            let mark = if is_current(name) { "*" } else { " " };
            table.row(vec![mark.to_owned(), name.clone(), context.url.clone()]);
        }
        table.render(terminal_width())
    };
    Ok(session.printer.value(&all, text)?)
}
