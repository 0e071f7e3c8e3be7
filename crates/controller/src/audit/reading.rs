//! Reading the log: newest first, file by file, a bounded part at a time.

use std::{fs, io, path::Path};

use gantry_api::audit::{AuditEntry, AuditPage, AuditQuery};
use gantry_types::Problem;

use super::segments;

/// Files that one request reads at most.
const FILES_READ: usize = 4;

/// The entries that fit the query.
///
/// # Errors
/// `invalid-query` for a limit out of range; `audit-unreadable` (permanent) if the files can't be read.
pub fn page(directory: &Path, query: &AuditQuery) -> Result<AuditPage, Problem> {
    let limit = match query.limit.unwrap_or(100) {
        limit @ 1..=1000 => limit as usize,
        other => {
            return Err(Problem::invalid("invalid-query", "the query is not valid")
                .field("limit", format!("{other} is out of range, use 1 to 1000")));
        }
    };
    read(directory, query, limit).map_err(|error| {
        let detail = format!("the audit log in {} can't be read: {error}", directory.display());
        Problem::permanent("audit-unreadable", detail)
            .remedy("check the permissions of the controller's data directory")
    })
}

fn read(directory: &Path, query: &AuditQuery, limit: usize) -> io::Result<AuditPage> {
    let mut page = AuditPage::default();
    let before = query.next.unwrap_or(u64::MAX);
    let segments = segments(directory)?;
    let older: Vec<_> = segments.iter().rev().filter(|(first, _)| *first < before).collect();
    for (number, (first, path)) in older.iter().enumerate() {
        if number == FILES_READ {
            page.next = Some(older[number - 1].0);
            return Ok(page);
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // Dropped meanwhile, and so is everything before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(page),
            Err(error) => return Err(error),
        };
        for entry in text.lines().rev().filter_map(parse).filter(|entry| entry.id < before) {
            if query.since.is_some_and(|since| entry.at < since) {
                return Ok(page);
            }
            if !fits(&entry, query) {
                continue;
            }
            page.items.push(entry);
            if page.items.len() == limit {
                let last = page.items.last().map_or(0, |entry| entry.id);
                let more = last > *first || number + 1 < older.len();
                page.next = more.then_some(last);
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// `None` for a line that was cut.
fn parse(line: &str) -> Option<AuditEntry> {
    serde_json::from_str(line).ok()
}

fn fits(entry: &AuditEntry, query: &AuditQuery) -> bool {
    let is_by = |user: &String| entry.who == *user || entry.who.split_once('/').is_some_and(|(_, name)| name == user);
    let is_about = |object: &String| {
        entry
            .object
            .as_ref()
            .is_some_and(|about| object.split_once('/') == Some((about.kind.as_str(), about.name.as_str())))
    };
    query.user.as_ref().is_none_or(is_by)
        && query.action.as_ref().is_none_or(|part| entry.action.contains(part))
        && query.object.as_ref().is_none_or(is_about)
        && query.outcome.is_none_or(|outcome| entry.outcome == outcome)
        && query.until.is_none_or(|until| entry.at <= until)
}

/// The id of the last whole entry of a file.
pub(super) fn last_id(path: &Path) -> io::Result<Option<u64>> {
    Ok(fs::read_to_string(path)?.lines().rev().find_map(parse).map(|entry| entry.id))
}
