//! The account as it is asked for: by host, by VM, or by the value of a label.

use std::collections::BTreeMap;

use gantry_api::energy::{EnergyQuery, EnergyReport, EnergyRow};
use gantry_types::{Problem, Timestamp};

use super::{Drawn, HOUR_S, Hour, add, hour_of, nothing};
use crate::app::{App, Caller};

const JOULES_PER_WH: f64 = 3600.0;
const DEFAULT_HOURS: u64 = 24;

#[derive(Debug, Clone, PartialEq)]
enum By {
    Host,
    Vm,
    Label(String),
}

fn by_of(text: Option<&str>) -> Result<By, Problem> {
    match text.unwrap_or("host") {
        "host" => Ok(By::Host),
        "vm" => Ok(By::Vm),
        other => match other.strip_prefix("label=").filter(|key| !key.is_empty()) {
            Some(key) => Ok(By::Label(key.to_owned())),
            None => Err(Problem::invalid("invalid-request", "the request is not valid")
                .field("by", format!("'{other}' is none of host, vm and label=KEY"))),
        },
    }
}

/// Reads files; the caller does not hold up others by it.
pub fn report(app: &App, caller: &Caller, query: &EnergyQuery) -> Result<EnergyReport, Problem> {
    caller.may_read()?;
    let by = by_of(query.by.as_deref())?;
    let now = app.clock.now();
    let first = query.since.map_or(hour_of(now).saturating_sub(DEFAULT_HOURS), hour_of);
    let hours = app.energy.since(first);
    let mut rows: BTreeMap<String, Drawn> = BTreeMap::new();
    for hour in &hours {
        collect(&mut rows, hour, &by);
    }
    let total: f64 = hours.iter().flat_map(|hour| hour.hosts.values()).map(|drawn| drawn.joules).sum();
    let of_vms: f64 = hours.iter().flat_map(|hour| hour.vms.values()).map(|vm| vm.drawn.joules).sum();
    let mut rows: Vec<EnergyRow> = rows.into_iter().map(|(name, drawn)| row(name, drawn)).collect();
    rows.sort_by(|a, b| b.energy_wh.total_cmp(&a.energy_wh).then_with(|| a.name.cmp(&b.name)));
    let rows_total = rows.len() as u64;
    rows.truncate(query.limit.map_or(usize::MAX, |limit| limit as usize));
    Ok(EnergyReport {
        by: query.by.clone().unwrap_or_else(|| "host".to_owned()),
        since: Timestamp::from_unix_ms((first * HOUR_S * 1000) as i64),
        until: now,
        rows,
        rows_total,
        total_wh: total / JOULES_PER_WH,
        of_no_vm_wh: (total - of_vms).max(0.0) / JOULES_PER_WH,
    })
}

fn collect(rows: &mut BTreeMap<String, Drawn>, hour: &Hour, by: &By) {
    let mut count = |name: String, drawn: &Drawn| {
        let row = rows.entry(name).or_insert(nothing(drawn.source));
        add(row, drawn.joules, drawn.seconds, drawn.source);
    };
    match by {
        By::Host => hour.hosts.iter().for_each(|(host, drawn)| count(host.to_string(), drawn)),
        By::Vm => hour.vms.values().for_each(|vm| count(vm.name.to_string(), &vm.drawn)),
        By::Label(key) => {
            let value = |vm: &super::VmDrawn| vm.labels.0.get(key).cloned().unwrap_or_default();
            hour.vms.values().for_each(|vm| count(value(vm), &vm.drawn));
        }
    }
}

fn row(name: String, drawn: Drawn) -> EnergyRow {
    EnergyRow {
        name,
        energy_wh: drawn.joules / JOULES_PER_WH,
        mean_watts: if drawn.seconds > 0.0 { drawn.joules / drawn.seconds } else { 0.0 },
        accounted_s: drawn.seconds,
        source: drawn.source,
    }
}
