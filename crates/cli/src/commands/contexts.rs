//! `gantry context …`

use serde_json::json;

use super::Session;
use crate::{
    args::ContextCommand,
    context::Contexts,
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
        ContextCommand::Show { name } => {
            let (name, context) = contexts.choose(name.as_deref().or(session.context.as_deref()))?;
            // The token stays in the file: this is what gets pasted into a question to somebody.
            let value = json!({ "name": name, "url": context.url, "ca": context.ca });
            Ok(session.printer.value(&value, || format!("name: {name}\nurl: {}\n{}", context.url, context.ca))?)
        }
    }
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
