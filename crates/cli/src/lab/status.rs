//! `gantry lab status` and `gantry lab list`: what is seen from outside, and what the controller thinks of it.

use std::{collections::BTreeMap, time::Duration};

use gantry_lab::{Layout, Room, Sight, list as all_labs};
use gantry_types::{Host, Resource};
use serde_json::json;
use tokio::time::timeout;

use super::{context_name, web};
use crate::{
    commands::Session,
    context::Contexts,
    exit::Failure,
    output::{Table, api_name, note, terminal_width},
};

/// A controller that is gone must not keep the status from being shown.
const ASK_LIMIT: Duration = Duration::from_secs(3);

pub async fn status(session: &Session, room: &Room) -> Result<(), Failure> {
    let sight = room.look();
    let states = timeout(ASK_LIMIT, host_states(room)).await.unwrap_or_default();
    let hosts: Vec<_> = sight
        .hosts
        .iter()
        .map(|host| {
            let mut value = serde_json::to_value(host).unwrap_or_default();
            value["state"] = json!(states.get(&host.name));
            value
        })
        .collect();
    let mut value = serde_json::to_value(&sight).unwrap_or_default();
    value["hosts"] = json!(hosts);
    Ok(session.printer.value(&value, || format!("{}\n{}", text(&sight, &states), web::how_to_log_in(room)))?)
}

/// Empty if the controller does not answer.
async fn host_states(room: &Room) -> BTreeMap<String, String> {
    let client = Contexts::load_from(&room.administrator_file())
        .and_then(|administrator| administrator.client(Some(&context_name(room))));
    let hosts = match client {
        Ok(client) => client.list::<Host>(None).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    hosts.into_iter().map(|host| (host.name().to_owned(), api_name(&host.status.state))).collect()
}

fn text(sight: &Sight, states: &BTreeMap<String, String>) -> String {
    let process = |pid: Option<i32>| pid.map_or_else(|| "not running".to_owned(), |pid| format!("process {pid}"));
    let mut table = Table::new(&["HOST", "STATE", "ADDRESS", "CABLE", "AGENT", "PROCESSES", "NAMESPACE"]);
    for host in &sight.hosts {
        table.row(vec![
            host.name.clone(),
            states.get(&host.name).cloned().unwrap_or_default(),
            host.address.clone(),
            if host.cable { "in" } else { "cut" }.to_owned(),
            process(host.agent_pid),
            host.processes.to_string(),
            host.namespace.clone(),
        ]);
    }
    let controller = process(sight.controller_pid);
    format!(
        "lab '{}' in {}\ncontroller {} ({controller})\n\n{}",
        sight.name,
        sight.directory.display(),
        sight.controller_url,
        table.render(terminal_width())
    )
}

pub fn list(session: &Session) -> Result<(), Failure> {
    let labs = all_labs()?;
    if labs.is_empty() && !session.printer.is_structured() {
        note("no labs");
        return Ok(());
    }
    let values: Vec<_> = labs
        .iter()
        .map(|lab| {
            let url = Layout::new(lab.index).controller_url();
            json!({ "name": lab.name, "hosts": lab.hosts, "url": url, "keep": lab.keep, "directory": lab.directory })
        })
        .collect();
    let text = || {
        let mut table = Table::new(&["NAME", "HOSTS", "CONTROLLER", "DIRECTORY"]);
        for lab in &labs {
            let url = Layout::new(lab.index).controller_url();
            table.row(vec![lab.name.to_string(), lab.hosts.to_string(), url, lab.directory.display().to_string()]);
        }
        table.render(terminal_width())
    };
    Ok(session.printer.value(&values, text)?)
}
