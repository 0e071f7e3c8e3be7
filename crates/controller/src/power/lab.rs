//! An outlet of a lab's power strip: a Unix socket that takes one order a connection, as a line of JSON.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use gantry_types::{PowerAnswer, PowerOrder, PowerStatus, PowerSwitch, Problem};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::PowerDriver;

/// Pulling a plug waits until everything on the host has ended.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
const ANSWER_MAX_BYTES: u64 = 64 << 10;

pub(super) struct LabOutlet {
    pub strip: PathBuf,
    pub outlet: String,
}

impl LabOutlet {
    async fn order(&self, switch: PowerSwitch) -> Result<PowerStatus, Problem> {
        let asked = timeout(ANSWER_LIMIT, self.ask(switch))
            .await
            .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it did not answer in time")));
        let silent = |error: &dyn std::fmt::Display| {
            Problem::transient("power-strip", format!("the power strip at {}: {error}", self.strip.display()))
                .remedy("start what is missing of the lab: gantry lab up")
        };
        let line = asked.map_err(|error| silent(&error))?;
        match serde_json::from_str(&line).map_err(|error| silent(&error))? {
            PowerAnswer::Power(status) => Ok(status),
            PowerAnswer::Refused(why) => {
                Err(Problem::permanent("power-refused", format!("outlet '{}': {why}", self.outlet)))
            }
        }
    }

    async fn ask(&self, switch: PowerSwitch) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.strip).await?;
        let order = PowerOrder { switch, outlet: self.outlet.clone() };
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER_MAX_BYTES)).read_line(&mut answer).await?;
        Ok(answer)
    }
}

#[async_trait]
impl PowerDriver for LabOutlet {
    async fn on(&self) -> Result<(), Problem> {
        self.order(PowerSwitch::On).await.map(drop)
    }
    async fn off(&self) -> Result<(), Problem> {
        self.order(PowerSwitch::Off).await.map(drop)
    }
    async fn status(&self) -> Result<PowerStatus, Problem> {
        self.order(PowerSwitch::Status).await
    }
}
