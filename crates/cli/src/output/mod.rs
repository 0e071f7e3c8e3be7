//! How objects are printed: tables for people, JSON, YAML and names for programs.
//!
//! Results go to stdout, everything else to stderr. Nothing here writes an escape sequence, and none that a guest or a
//! file name smuggled into an object gets through.

mod age;
mod alarm_rows;
mod cluster_rows;
mod describe;
mod explanation;
mod lease;
mod load_balancer;
mod rows;
mod snapshot_tree;
mod storage_rows;
mod table;

use std::io::{self, IsTerminal, Write};

use gantry_types::{Problem, Timestamp};

pub use age::{age, duration};
pub use alarm_rows::is_active;
pub use describe::describe;
pub use explanation::explanation_text;
pub use rows::{Retry, api_name, current_step, yes_no};
pub use snapshot_tree::snapshot_tree;
pub use table::{Row, Surroundings, Table};

use crate::args::Format;

/// Where results go, and how.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub format: Format,
}

impl Printer {
    /// Objects of one kind.
    pub fn list<T: Row>(self, objects: &[T], around: &Surroundings) -> Result<(), Problem> {
        match self.format {
            Format::Table | Format::Wide if objects.is_empty() => {
                note(&format!("no {}", T::PLURAL_FOR_PEOPLE));
                Ok(())
            }
            Format::Table | Format::Wide => {
                let table = Table::of(objects, self.format == Format::Wide, around);
                print(&table.render(terminal_width()))
            }
            Format::Json => print(&json(&objects)?),
            Format::Yaml => {
                let documents: Result<Vec<_>, _> = objects.iter().map(yaml).collect();
                print(&documents?.join("---\n"))
            }
            Format::Name => print(&objects.iter().map(|o| format!("{}/{}\n", T::KIND, o.name())).collect::<String>()),
        }
    }

    pub fn one<T: Row>(self, object: &T) -> Result<(), Problem> {
        match self.format {
            Format::Json => print(&json(object)?),
            Format::Yaml => print(&yaml(object)?),
            _ => self.list(std::slice::from_ref(object), &Surroundings::at(now())),
        }
    }

    /// Whether a program reads the output.
    pub fn is_structured(self) -> bool {
        !matches!(self.format, Format::Table | Format::Wide)
    }

    /// Any value that is not an object: as JSON or YAML, or as `text` for people.
    pub fn value(self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Problem> {
        match self.format {
            Format::Json => print(&json(value)?),
            Format::Yaml => print(&yaml(value)?),
            _ => print(&text()),
        }
    }
}

pub fn json(value: &impl serde::Serialize) -> Result<String, Problem> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unprintable(&error))?;
    Ok(text + "\n")
}

pub fn yaml(value: &impl serde::Serialize) -> Result<String, Problem> {
    serde_norway::to_string(value).map_err(|error| unprintable(&error))
}

fn unprintable(error: &dyn std::fmt::Display) -> Problem {
    Problem::permanent("unprintable", format!("the result can't be printed in this format: {error}"))
}

/// To stdout. A reader that has had enough (`| head`) is no error, but the end.
pub fn print(text: &str) -> Result<(), Problem> {
    print_bytes(text.as_bytes())
}

pub fn print_bytes(bytes: &[u8]) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Problem::permanent("no-output", format!("the output could not be written: {error}"))),
    }
}

/// A line on stderr, for people. Nobody can be told if that fails.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// `text` without control characters, which could drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// The terminal's width, or nothing if stdout is not one: then lines are as long as they are.
pub fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

pub fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

#[cfg(test)]
mod tests;
