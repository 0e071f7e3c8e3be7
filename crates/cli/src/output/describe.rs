//! One object for people: sections of `Key: value`, with what happened to it lately.

use std::fmt::Write;

use gantry_types::{Event, Operation, Resource, Timestamp};
use serde_json::Value;

use super::{Surroundings, Table, age, printable};

/// How many of the newest events and operations are shown.
const RECENT: usize = 10;

/// `object` with its `events` and `operations`, which the caller has chosen; oldest first.
pub fn describe<T: Resource>(object: &T, events: &[Event], operations: &[Operation], now: Timestamp) -> String {
    let metadata = object.metadata();
    let mut text = String::new();
    pair(&mut text, 0, "Name", metadata.name.as_str());
    pair(&mut text, 0, "Kind", T::KIND);
    pair(&mut text, 0, "UUID", &metadata.uuid.to_string());
    if !metadata.labels.is_empty() {
        pair(&mut text, 0, "Labels", &metadata.labels.to_string());
    }
    if let Some(created_at) = metadata.created_at {
        pair(&mut text, 0, "Created", &format!("{created_at} ({} ago)", age(Some(created_at), now)));
    }
    let value = serde_json::to_value(object).unwrap_or_default();
    for (title, section) in [("Spec", &value["spec"]), ("Status", &value["status"])] {
        if section.as_object().is_some_and(|members| !members.is_empty()) {
            let _ = writeln!(text, "\n{title}:");
            members(&mut text, 1, section);
        }
    }
    let around = Surroundings::at(now);
    if !operations.is_empty() {
        let recent = &operations[operations.len().saturating_sub(RECENT)..];
        let _ = write!(text, "\nOperations:\n{}", indented(&Table::of(recent, false, &around).render(None)));
    }
    if !events.is_empty() {
        let recent = &events[events.len().saturating_sub(RECENT)..];
        let mut table = Table::new(&["AGE", "SEVERITY", "REASON", "MESSAGE"]);
        for event in recent {
            let spec = &event.spec;
            table.row(vec![
                age(event.metadata.created_at, now),
                super::api_name(&spec.severity),
                spec.reason.clone(),
                spec.message.clone(),
            ]);
        }
        let _ = write!(text, "\nEvents:\n{}", indented(&table.render(None)));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn members(text: &mut String, depth: usize, value: &Value) {
    let Some(object) = value.as_object() else { return };
    for (key, value) in object {
        let title = title_of(key);
        match value {
            Value::Null => {}
            Value::Object(inner) if inner.is_empty() => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(_) => {
                heading(text, depth, &title);
                members(text, depth + 1, value);
            }
            Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
                let joined: Vec<_> = items.iter().map(scalar).collect();
                pair(text, depth, &title, &joined.join(", "));
            }
            Value::Array(items) => {
                heading(text, depth, &title);
                for item in items {
                    let line: Vec<_> = item.as_object().into_iter().flatten().map(inline).collect();
                    let _ = writeln!(text, "{:1$}- {2}", "", 2 * (depth + 1), printable(&line.join("  ")));
                }
            }
            Value::String(long) if long.contains('\n') => {
                heading(text, depth, &title);
                for line in long.lines() {
                    let _ = writeln!(text, "{:1$}| {2}", "", 2 * (depth + 1), printable(line));
                }
            }
            value => pair(text, depth, &title, &scalar(value)),
        }
    }
}

fn inline((key, value): (&String, &Value)) -> String {
    format!("{key}={}", scalar(value))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(value) => super::yes_no(*value),
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

fn heading(text: &mut String, depth: usize, title: &str) {
    let _ = writeln!(text, "{:1$}{title}:", "", 2 * depth);
}

fn pair(text: &mut String, depth: usize, title: &str, value: &str) {
    let _ = writeln!(text, "{:1$}{2:<22} {3}", "", 2 * depth, format!("{title}:"), printable(value).replace('\n', " "));
}

/// `agent_address` → `Agent address`.
fn title_of(key: &str) -> String {
    let key = key.replace('_', " ");
    let mut characters = key.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
