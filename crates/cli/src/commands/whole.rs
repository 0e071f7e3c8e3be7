//! `gantry overview`, `gantry search`, `gantry audit …`: what is about no single object.

use std::collections::BTreeMap;

use gantry_api::{
    audit::{AuditEntry, AuditQuery},
    overview::{Group, Overview, SearchQuery, Totals, WrongSeverity},
};
use gantry_types::{ByteSize, Timestamp};

use super::Session;
use crate::{
    args::{AuditCommand, AuditList, OverviewOf, SearchFor},
    exit::Failure,
    output::{Table, age, api_name, note, now, terminal_width},
};

/// Entries of one request.
const PAGE: u32 = 1000;

pub async fn overview(session: &Session, arguments: OverviewOf) -> Result<(), Failure> {
    let overview = session.client()?.overview(&arguments.by).await?;
    Ok(session.printer.value(&overview, || overview_text(&overview))?)
}

fn overview_text(overview: &Overview) -> String {
    let mut text = String::new();
    for wrong in &overview.wrong {
        let mark = if wrong.severity == WrongSeverity::Critical { "critical" } else { "warning " };
        text.push_str(&format!("{mark}  {}\n", wrong.what));
        if let Some(remedy) = &wrong.remedy {
            text.push_str(&format!("          {remedy}\n"));
        }
    }
    let shown = overview.wrong.len() as u64;
    match overview.wrong_total {
        0 => text.push_str("nothing is wrong\n"),
        total if total > shown => text.push_str(&format!("and {} more\n", total - shown)),
        _ => {}
    }
    let mut table =
        Table::new(&["GROUP", "HOSTS", "VMS", "CPUS USED", "ASSIGNED", "OF", "MEMORY USED", "ASSIGNED", "OF"]);
    for Group { name, totals } in &overview.groups {
        table.row(row(if name.is_empty() { "-" } else { name }, totals));
    }
    table.row(row("all", &overview.totals));
    text.push('\n');
    text.push_str(&table.render(terminal_width()));
    text
}

fn row(name: &str, totals: &Totals) -> Vec<String> {
    let size = |bytes: u64| ByteSize(bytes).approximate();
    vec![
        name.to_owned(),
        counts(totals.hosts.total, &totals.hosts.by_state, "ready"),
        counts(totals.vms.total, &totals.vms.by_phase, "running"),
        format!("{:.1}", totals.cpu.used_cores),
        totals.cpu.assigned_cores.to_string(),
        totals.cpu.capacity_cores.to_string(),
        size(totals.memory.used_bytes),
        size(totals.memory.assigned_bytes),
        size(totals.memory.capacity_bytes),
    ]
}

/// `12 (1 lost)`: what is not as usual is named.
fn counts(total: u64, by: &BTreeMap<String, u64>, usual: &str) -> String {
    let others: Vec<_> = by.iter().filter(|(name, _)| *name != usual).map(|(name, n)| format!("{n} {name}")).collect();
    if others.is_empty() { total.to_string() } else { format!("{total} ({})", others.join(", ")) }
}

pub async fn search(session: &Session, arguments: SearchFor) -> Result<(), Failure> {
    let kind = arguments.kind.map(|kind| kind.singular().to_owned());
    let query = SearchQuery { q: arguments.text, kind, limit: Some(arguments.limit) };
    let result = session.client()?.search(&query).await?;
    session.printer.value(&result, || {
        let mut table = Table::new(&["OBJECT", "FOUND BY", "PHASE", "HOST"]);
        for found in &result.items {
            table.row(vec![
                format!("{}/{}", found.kind, found.name),
                format!("{} {}", api_name(&found.matched), found.matched_text),
                found.phase.clone().unwrap_or_else(|| "-".to_owned()),
                found.host.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        if result.items.is_empty() { String::new() } else { table.render(terminal_width()) }
    })?;
    if result.items.is_empty() {
        note("nothing was found");
    } else if result.more {
        note("there is more; narrow the search, or raise --limit");
    }
    Ok(())
}

pub async fn audit(session: &Session, command: AuditCommand) -> Result<(), Failure> {
    let AuditCommand::List(arguments) = command;
    let entries = entries(session, arguments).await?;
    Ok(session.printer.value(&entries, || {
        let mut table = Table::new(&["AGE", "WHO", "FROM", "ACTION", "OBJECT", "OUTCOME"]);
        for entry in &entries {
            let outcome = api_name(&entry.outcome);
            table.row(vec![
                age(Some(entry.at), now()),
                entry.who.clone(),
                entry.address.clone(),
                entry.action.clone(),
                entry
                    .object
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |object| format!("{}/{}", object.kind, object.name)),
                entry.code.as_ref().map_or(outcome.clone(), |code| format!("{outcome}: {code}")),
            ]);
        }
        table.render(terminal_width())
    })?)
}

/// As many as were asked for, the oldest first.
async fn entries(session: &Session, arguments: AuditList) -> Result<Vec<AuditEntry>, Failure> {
    let client = session.client()?;
    let since = arguments.since.map(|span| {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(now().unix_ms().saturating_sub(span_ms))
    });
    let mut query = AuditQuery {
        user: arguments.user,
        action: arguments.action,
        object: arguments.regarding,
        outcome: arguments.outcome.map(Into::into),
        since,
        limit: Some(arguments.limit.min(PAGE)),
        ..AuditQuery::default()
    };
    let wanted = arguments.limit as usize;
    let mut entries = Vec::new();
    loop {
        let page = client.audit(&query).await?;
        entries.extend(page.items);
        match page.next {
            Some(next) if entries.len() < wanted => query.next = Some(next),
            _ => break,
        }
    }
    entries.truncate(wanted);
    entries.reverse();
    Ok(entries)
}
