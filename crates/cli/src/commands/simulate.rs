//! `gantry simulate …`: reads traces or captures, runs the simulator, prints and writes what came out.

use std::{collections::BTreeSet, fs, io::Read, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use async_compression::tokio::bufread::XzDecoder;
use gantry_simulate::{
    live::{self, Capture, Changes, Outcome},
    planetlab::{self, ALL_STAY, CLOUDSIM, Day, DayFigures, HONEST, Policy, Ratios, Rules},
    plot::{self, Series},
};
use gantry_types::{Host, Pool, Problem, Vm};
use serde_json::json;
use tokio::io::{AsyncReadExt, BufReader};

use super::Session;
use crate::{
    args::{SimulateCommand, SimulateLive, SimulatePlanetlab, SimulateRules},
    exit::Failure,
    output::{Table, note, terminal_width},
};

/// Traces of five days have 12 MB.
const MOST_UNPACKED: u64 = 256 << 20;

pub async fn run(session: &Session, command: SimulateCommand) -> Result<(), Failure> {
    match command {
        SimulateCommand::Planetlab(arguments) => planetlab(session, arguments).await,
        SimulateCommand::Live(arguments) => live(session, arguments).await,
    }
}

async fn planetlab(session: &Session, arguments: SimulatePlanetlab) -> Result<(), Failure> {
    let invalid = |error: String| Failure::from(Problem::invalid("invalid-simulation", error));
    let policies: Vec<Policy> =
        arguments.policy.iter().map(|policy| policy.parse()).collect::<Result<_, _>>().map_err(invalid)?;
    let mut rules: BTreeSet<SimulateRules> = arguments.rules.iter().copied().collect();
    rules.extend(arguments.honest.then_some(SimulateRules::Honest));
    let days = chosen(read_days(&arguments.traces).await?, &arguments.days)?;
    let jobs: Vec<(usize, Rules, Policy)> = rules
        .iter()
        .flat_map(|rules| (0..days.len()).map(move |day| (day, world(*rules))))
        .flat_map(|(day, rules)| policies.iter().map(move |policy| (day, rules, *policy)))
        .collect();
    let runs = tokio::task::spawn_blocking(move || {
        let run = |(day, rules, policy): &(usize, Rules, Policy)| planetlab::run(&days[*day], *policy, *rules);
        jobs.iter().map(run).collect::<Result<Vec<_>, _>>()
    })
    .await
    .map_err(anyhow::Error::from)?
    .map_err(|error| invalid(error.to_string()))?;
    let figures = json!({ "runs": runs, "ratios_to_lr_mmt": ratios(&runs), "reproduction": reproductions(&runs) });
    session.printer.value(&figures, || {
        let mut table = Table::new(&planetlab::TITLES);
        for row in planetlab::rows(&runs) {
            table.row(row.to_vec());
        }
        table.render(terminal_width())
    })?;
    write_json(arguments.json.as_deref(), &figures)?;
    if let Some(directory) = &arguments.svg {
        write_plots(directory, planetlab_plots(&runs))?;
    }
    Ok(())
}

fn world(rules: SimulateRules) -> Rules {
    match rules {
        SimulateRules::Cloudsim => CLOUDSIM,
        SimulateRules::AllStay => ALL_STAY,
        SimulateRules::Honest => HONEST,
    }
}

fn chosen(days: Vec<Day>, wanted: &[String]) -> Result<Vec<Day>, Failure> {
    if wanted.iter().any(|day| day == "all") {
        return Ok(days);
    }
    let known: Vec<String> = days.iter().map(|day| day.name.clone()).collect();
    if let Some(missing) = wanted.iter().find(|day| !known.contains(day)) {
        let told = format!("day '{missing}' is not among the traces; there are: {}", known.join(", "));
        return Err(Problem::invalid("no-such-day", told).into());
    }
    Ok(days.into_iter().filter(|day| wanted.contains(&day.name)).collect())
}

/// The archive is unpacked in memory: nothing in it becomes a path on this machine.
async fn read_days(path: &Path) -> Result<Vec<Day>, Failure> {
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        let mut unpacked = Vec::new();
        let mut limited = XzDecoder::new(BufReader::new(file)).take(MOST_UNPACKED + 1);
        limited.read_to_end(&mut unpacked).await?;
        ensure!(unpacked.len() as u64 <= MOST_UNPACKED, "it unpacks to more than 256 MiB");
        let mut texts = Vec::new();
        for entry in tar::Archive::new(unpacked.as_slice()).entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(|| format!("{path} is not text"))?;
            texts.push((path, text));
        }
        anyhow::Ok(planetlab::days(texts)?)
    };
    read.await.with_context(|| format!("cannot read traces from {}", path.display())).map_err(Failure::from)
}

fn ratios(runs: &[DayFigures]) -> Vec<serde_json::Value> {
    let peer_of = |run: &DayFigures| {
        runs.iter().find(|peer| peer.policy == Policy::LrMmt && peer.day == run.day && peer.rules == run.rules)
    };
    let others = runs.iter().filter(|run| run.policy != Policy::LrMmt);
    let told = others.filter_map(|run| {
        let ratios = Ratios::of(run, peer_of(run)?);
        Some(json!({ "day": run.day, "rules": run.rules, "policy": run.policy, "ratios": ratios }))
    });
    told.collect()
}

fn reproductions(runs: &[DayFigures]) -> Vec<serde_json::Value> {
    let classic = runs.iter().filter(|run| run.rules == CLOUDSIM.name);
    let told = classic.filter_map(|run| Some(json!({ "day": run.day, "ratios": Ratios::of_reproduction(run)? })));
    told.collect()
}

fn planetlab_plots(runs: &[DayFigures]) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    let rules: BTreeSet<&str> = runs.iter().map(|run| run.rules).collect();
    for rules in rules {
        let runs: Vec<&DayFigures> = runs.iter().filter(|run| run.rules == rules).collect();
        let days: Vec<String> = runs.iter().map(|run| run.day.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let policies: BTreeSet<String> = runs.iter().map(|run| run.policy.to_string()).collect();
        let series = |value: &dyn Fn(&DayFigures) -> f64| -> Vec<Series> {
            let of = |policy: &String| Series {
                name: policy.clone(),
                values: days
                    .iter()
                    .map(|day| runs.iter().find(|run| run.day == *day && run.policy.to_string() == *policy))
                    .map(|run| run.map_or(0.0, |run| value(run)))
                    .collect(),
            };
            policies.iter().map(of).collect()
        };
        let bars = |what: &str, unit: &str, value: &dyn Fn(&DayFigures) -> f64| {
            let title = format!("{what}, {rules} rules");
            (format!("{}-{rules}.svg", what.to_lowercase()), plot::bars(&title, unit, &days, &series(value)))
        };
        plots.push(bars("Energy", "kWh", &|run| run.energy_kwh));
        plots.push(bars("Migrations", "", &|run| run.migrations as f64));
        plots.push(bars("SLAV", "%", &|run| 100.0 * run.slav));
        for day in &days {
            let runs: Vec<_> = runs.iter().filter(|run| run.day == *day).collect();
            let hours: Vec<f64> = runs[0].moments.iter().map(|moment| moment.time_s / 3600.0).collect();
            let hosts = |run: &&DayFigures| Series {
                name: run.policy.to_string(),
                values: run.moments.iter().map(|moment| moment.hosts as f64).collect(),
            };
            let series: Vec<Series> = runs.iter().map(|run| hosts(run)).collect();
            let title = format!("Hosts in use on {day}, {rules} rules");
            plots.push((format!("hosts-{day}-{rules}.svg"), plot::lines(&title, "hosts", &hours, &series)));
        }
    }
    plots
}

async fn live(session: &Session, arguments: SimulateLive) -> Result<(), Failure> {
    let capture = capture(session, &arguments).await?;
    let weights = arguments.policy.as_deref().map(str::parse).transpose();
    let weights = weights.map_err(|error| Problem::invalid("invalid-policy", format!("{error}")))?;
    let changes = Changes { lost: arguments.lose, removed: arguments.remove, added: arguments.add, weights };
    let outcome = live::what_if(&capture, &changes).map_err(|error| {
        Problem::invalid("invalid-simulation", error.to_string()).remedy("see which hosts there are: gantry host list")
    })?;
    session.printer.value(&outcome, || told(&outcome))?;
    write_json(arguments.json.as_deref(), &serde_json::to_value(&outcome).map_err(anyhow::Error::from)?)?;
    if let Some(directory) = &arguments.svg {
        write_plots(directory, vec![("memory.svg".to_owned(), memory_plot(&outcome))])?;
    }
    // As for a difference: the answer to "does it hold?" is no.
    if outcome.homeless.is_empty() { Ok(()) } else { Err(Failure::Silent(1)) }
}

async fn capture(session: &Session, arguments: &SimulateLive) -> Result<Capture, Failure> {
    if let Some(path) = &arguments.snapshot {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let capture = serde_json::from_str(&text).map_err(|error| anyhow!("{} is no capture: {error}", path.display()));
        return Ok(capture?);
    }
    let client = session.client()?;
    let capture = Capture {
        hosts: client.list::<Host>(None).await?,
        vms: client.list::<Vm>(None).await?,
        pools: client.list::<Pool>(None).await?,
    };
    if let Some(path) = &arguments.capture {
        write_json(Some(path), &serde_json::to_value(&capture).map_err(anyhow::Error::from)?)?;
    }
    Ok(capture)
}

fn told(outcome: &Outcome) -> String {
    let mut hosts = Table::new(&["HOST", "VMS", "MEMORY", "VMS AFTER", "MEMORY AFTER"]);
    let vms = |fill: &Option<live::Fill>| fill.map_or_else(|| "-".to_owned(), |fill| fill.vms.to_string());
    let memory = |fill: &Option<live::Fill>| fill.map_or_else(|| "-".to_owned(), |fill| percent(fill.memory));
    for change in &outcome.hosts {
        hosts.row(vec![
            change.host.to_string(),
            vms(&change.before),
            memory(&change.before),
            vms(&change.after),
            memory(&change.after),
        ]);
    }
    let mut text = hosts.render(terminal_width());
    for (what, seats) in [("start again", &outcome.restarted), ("move", &outcome.moved)] {
        for seat in seats {
            text.push_str(&format!("{} would {what} on {}, from {}\n", seat.vm, seat.to, seat.from));
        }
    }
    for vm in &outcome.homeless {
        text.push_str(&format!("{} of {} would have no place: {}\n", vm.vm, vm.from, vm.reason));
    }
    text.push_str(match outcome.survives_one_more {
        true => "afterwards, the loss of one more host could be made up for\n",
        false => "afterwards, the loss of one more host could NOT be made up for\n",
    });
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn memory_plot(outcome: &Outcome) -> String {
    let names: Vec<String> = outcome.hosts.iter().map(|change| change.host.to_string()).collect();
    let of = |name: &str, fill: fn(&live::HostChange) -> Option<live::Fill>| Series {
        name: name.to_owned(),
        values: outcome.hosts.iter().map(|change| fill(change).map_or(0.0, |fill| 100.0 * fill.memory)).collect(),
    };
    let series = [of("before", |change| change.before), of("after", |change| change.after)];
    plot::bars("Memory given out", "%", &names, &series)
}

fn write_json(path: Option<&Path>, value: &serde_json::Value) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn write_plots(directory: &Path, plots: Vec<(String, String)>) -> Result<(), Failure> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, svg) in &plots {
        let path = directory.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    note(&format!("{} plots are in {}", plots.len(), directory.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::XzEncoder;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, text.as_bytes()).expect("appended");
        }
        let mut encoder = XzEncoder::new(Vec::new());
        encoder.write_all(&builder.into_inner().expect("finished")).await.expect("packed");
        encoder.shutdown().await.expect("packed");
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), encoder.into_inner()).expect("written");
        file
    }

    #[tokio::test]
    async fn traces_are_read_from_an_archive_and_what_is_wrong_is_named() {
        let good = "7\n".repeat(288);
        let file = archive(&[("planetlab/20110303/a", &good), ("planetlab/20110306/a", &good)]).await;
        let days = read_days(file.path()).await.expect("days");
        assert_eq!(days.iter().map(|day| day.name.as_str()).collect::<Vec<_>>(), ["20110303", "20110306"]);
        let one = chosen(days.clone(), &["20110306".to_owned()]).expect("a day");
        assert_eq!(one.len(), 1);
        let missing = chosen(days, &["20110304".to_owned()]).expect_err("no such day").report();
        assert!(missing.contains("there are: 20110303, 20110306"), "{missing}");

        let short = archive(&[("d/vm", "7\n")]).await;
        let told = read_days(short.path()).await.expect_err("too short").report();
        assert!(told.contains("trace d/vm has 1 lines"), "{told}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "no archive").expect("written");
        let told = read_days(file.path()).await.expect_err("no archive").report();
        assert!(told.contains("cannot read traces from"), "{told}");
    }
}
