//! `gantry energy …`

use std::time::Duration;

use gantry_api::energy::{EnergyQuery, EnergyReport};
use gantry_types::{EnergySource, Timestamp};

use super::Session;
use crate::{
    args::{EnergyCommand, EnergyReportOf},
    exit::Failure,
    output::{Table, api_name, duration, now, terminal_width},
};

pub async fn run(session: &Session, command: EnergyCommand) -> Result<(), Failure> {
    let EnergyCommand::Report(EnergyReportOf { by, since }) = command;
    let since = i64::try_from(since.as_millis()).map_or(0, |ms| now().unix_ms().saturating_sub(ms));
    let query = EnergyQuery { by: Some(by), since: Some(Timestamp::from_unix_ms(since)), limit: None };
    let report = session.client()?.energy(&query).await?;
    Ok(session.printer.value(&report, || text(&report))?)
}

fn text(report: &EnergyReport) -> String {
    let first = match report.by.as_str() {
        "host" => "HOST".to_owned(),
        "vm" => "VM".to_owned(),
        label => label.trim_start_matches("label=").to_uppercase(),
    };
    let mut table = Table::new(&[&first, "ENERGY", "MEAN", "FOR", "SOURCE"]);
    for row in &report.rows {
        table.row(vec![
            if row.name.is_empty() { "(none)".to_owned() } else { row.name.clone() },
            energy(row.energy_wh),
            format!("{:.1} W", row.mean_watts),
            duration(Duration::from_secs_f64(row.accounted_s)),
            api_name(&row.source),
        ]);
    }
    let total = format!(
        "since {}: {} drawn by all hosts, {} of it for no VM\n",
        report.since,
        energy(report.total_wh),
        energy(report.of_no_vm_wh)
    );
    let estimated = report.rows.iter().any(|row| row.source != EnergySource::Measured);
    let note = match estimated {
        true => {
            "estimated: by the use of processors and a SPECpower curve; a host's own: gantry host set HOST --watts\n"
        }
        false => "",
    };
    table.render(terminal_width()) + &total + note
}

fn energy(wh: f64) -> String {
    if wh >= 1000.0 { format!("{:.2} kWh", wh / 1000.0) } else { format!("{wh:.2} Wh") }
}
