//! The lab's power strip: a Unix socket on which a controller switches hosts off and on. One order a connection, as a
//! line of JSON; the answer is a line too, when it is done. Orders are carried out one after the other.
//!
//! It is a process in the switch's namespace, so it goes with the lab. Killed, it loses nothing: what is plugged in is
//! seen from the cables.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use gantry_types::{PowerAnswer, PowerOrder, PowerStatus, PowerSwitch};

use crate::{Room, cable, namespace, processes};

/// A caller that sends nothing keeps the others waiting no longer than this.
const ORDER_LIMIT: Duration = Duration::from_secs(5);
const ORDER_MAX_BYTES: u64 = 4096;

impl Room {
    pub fn power_socket(&self) -> PathBuf {
        self.record().directory.join("power.sock")
    }

    /// Starts the power strip unless it runs.
    pub fn start_power_strip(&self) -> Result<()> {
        let arguments = ["lab", "power-strip", "--name", self.record().name.as_str()];
        let namespace = self.layout().switch_namespace();
        if processes::running(&namespace, &arguments).is_none() {
            processes::start(&namespace, &arguments, &self.log("power-strip"))?;
        }
        Ok(())
    }

    /// Carries orders out until it is killed.
    pub fn serve_power(&self) -> Result<()> {
        let path = self.power_socket();
        // Left by one that was killed.
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("could not listen at {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("could not protect {}", path.display()))?;
        for connection in listener.incoming() {
            match connection.context("could not take a connection").and_then(|stream| self.serve(stream)) {
                Ok(()) => {}
                Err(error) => eprintln!("power strip: {error:#}"),
            }
        }
        Ok(())
    }

    fn serve(&self, mut stream: UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(ORDER_LIMIT))?;
        let mut line = String::new();
        BufReader::new((&stream).take(ORDER_MAX_BYTES)).read_line(&mut line).context("no order came")?;
        let answer =
            match serde_json::from_str(&line).context("it is no order").and_then(|order| self.carry_out(&order)) {
                Ok(status) => PowerAnswer::Power(status),
                Err(error) => PowerAnswer::Refused(format!("{error:#}")),
            };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        stream.write_all(&text).context("the answer was not taken")
    }

    fn carry_out(&self, order: &PowerOrder) -> Result<PowerStatus> {
        let host = self.host_number(&order.outlet)?;
        match order.switch {
            PowerSwitch::Off => drop(self.unplug(host)?),
            PowerSwitch::On => drop(self.power_on(host)?),
            PowerSwitch::Status => {}
        }
        let is_dark = namespace::processes(&self.layout().host_namespace(host)).is_empty();
        Ok(if is_dark && !cable::is_plugged(self.layout(), host) { PowerStatus::Off } else { PowerStatus::On })
    }
}
