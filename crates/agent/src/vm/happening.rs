//! What a VM's task waits for besides commands: QEMU's events, and its end.

use std::path::Path;
use std::time::Duration;

use gantry_qemu::process::ProcessError;
use gantry_qemu::qmp::{Event, QmpError};
use tokio::time::{Instant, sleep, sleep_until};

use super::actor::Run;
use super::machine::{self, Machine};

/// How soon after its monitor connection QEMU ends.
const EXIT_FOLLOWS: Duration = Duration::from_secs(2);
/// Between two attempts to talk to a QEMU that is there and silent.
const DEAF_PAUSE: Duration = Duration::from_secs(5);

pub(super) enum Happening {
    Exited(String),
    Event(Event),
    MonitorLost,
}

pub(super) async fn moment(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What happens next. Cancel safe.
pub(super) async fn happening(run: &mut Run, run_dir: &Path) -> Happening {
    match run {
        Run::Off => std::future::pending().await,
        Run::Deaf(process) => {
            let answers = async {
                while machine::connect(process, run_dir).await.is_err() {
                    sleep(DEAF_PAUSE).await;
                }
            };
            tokio::select! {
                biased;
                exited = process.wait_exit() => Happening::Exited(describe(exited)),
                // Connected anew by who takes it over.
                () = answers => Happening::MonitorLost,
            }
        }
        Run::On(machine) if machine.monitored => {
            let process = machine.process.clone();
            tokio::select! {
                biased;
                event = machine.events.next() => match event {
                    Ok(event) => Happening::Event(event),
                    Err(QmpError::EventsLost { .. }) => Happening::MonitorLost,
                    Err(_) => {
                        machine.monitored = false;
                        machine.exit_expected_until = Some(Instant::now() + EXIT_FOLLOWS);
                        exit_or_silence(machine).await
                    }
                },
                exited = process.wait_exit() => Happening::Exited(describe(exited)),
            }
        }
        Run::On(machine) => exit_or_silence(machine).await,
    }
}

/// May be dropped and called again at any moment, as all that the task waits for.
async fn exit_or_silence(machine: &mut Machine) -> Happening {
    let process = machine.process.clone();
    tokio::select! {
        biased;
        exited = process.wait_exit() => Happening::Exited(describe(exited)),
        () = moment(machine.exit_expected_until) => {
            machine.exit_expected_until = None;
            Happening::MonitorLost
        }
    }
}

fn describe(exited: Result<Option<std::process::ExitStatus>, ProcessError>) -> String {
    match exited {
        Ok(Some(status)) => format!("ended: {status}"),
        Ok(None) => "ended".to_owned(),
        Err(error) => format!("can't be watched: {error}"),
    }
}
