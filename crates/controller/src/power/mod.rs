//! Switching hosts off and on. Which driver a host has is in its spec; what each driver needs is the controller's
//! configuration, so that nobody who may change a host can make the controller talk to something else.
//!
//! A driver answers when the power is as was asked. Each call can be repeated. On failure nothing is known, and
//! `status` tells.

pub mod conformance;
mod lab;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use gantry_types::{Host, PowerDriverKind, PowerStatus, Problem, Resource};

/// One host's power.
#[async_trait]
pub trait PowerDriver: Send + Sync {
    async fn on(&self) -> Result<(), Problem>;
    /// At once, as pulling the plug: whoever asks has emptied the host.
    async fn off(&self) -> Result<(), Problem>;
    async fn status(&self) -> Result<PowerStatus, Problem>;
}

/// Finds the driver of a host.
pub trait PowerDrivers: Send + Sync {
    /// # Errors
    /// `no-power-driver` if the host has none, or one that this controller was not given.
    fn of(&self, host: &Host) -> Result<Arc<dyn PowerDriver>, Problem>;
}

/// The drivers of this program.
#[derive(Debug, Clone, Default)]
pub struct BuiltInDrivers {
    /// Where a lab's power strip listens.
    pub lab_strip: Option<PathBuf>,
}

impl PowerDrivers for BuiltInDrivers {
    fn of(&self, host: &Host) -> Result<Arc<dyn PowerDriver>, Problem> {
        let Some(power) = &host.spec.power else {
            return Err(no_driver(host, "it has no power driver").remedy(format!(
                "say how its power is switched (spec.power), for example in a lab: gantry host set {} --power lab",
                host.name()
            )));
        };
        let outlet = power.outlet.clone().unwrap_or_else(|| host.name().to_owned());
        match (power.driver, &self.lab_strip) {
            (PowerDriverKind::Lab, Some(strip)) => Ok(Arc::new(lab::LabOutlet { strip: strip.clone(), outlet })),
            (PowerDriverKind::Lab, None) => Err(no_driver(host, "this controller is not that of a lab")
                .remedy("start the controller with: gantry controller run --power-strip SOCKET")),
        }
    }
}

fn no_driver(host: &Host, why: &str) -> Problem {
    let detail = format!("the power of host '{}' can't be switched: {why}", host.name());
    Problem::conflict("no-power-driver", detail).object(host.reference())
}
