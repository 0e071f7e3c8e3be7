//! `host_drain`: move every VM off a host, stopped ones too, and keep it empty. See `host_empty.rs` for the steps.

use async_trait::async_trait;
use gantry_types::{Maintenance, Name, Problem, Resource, Severity};

use super::{
    host_empty::{Close, Empty, STAYED, Stopped},
    host_target::target_host,
    step::{Ending, Procedure, Step, StepContext},
};
use crate::objects::Change;

pub struct HostDrain;

#[async_trait]
impl Procedure for HostDrain {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Close), Box::new(Empty { stopped: Stopped::Move })]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut host = target_host(context).await?;
        host.status.operation = None;
        if let Ending::Succeeded = ending {
            host.status.maintenance = Maintenance::Drained;
            let stayed: Vec<(Name, String)> = context.memo(STAYED)?.unwrap_or_default();
            let stayed: Vec<_> = stayed.iter().map(|(vm, why)| format!("'{vm}' ({why})")).collect();
            let stayed = match stayed.is_empty() {
                true => String::new(),
                false => format!("; VMs that do not run stay there with their disks: {}", stayed.join(", ")),
            };
            let message = format!("host '{}' is drained: nothing runs there{stayed}", host.name());
            change.event(&context.event(Severity::Normal, "HostDrained", message, Some(&host.metadata.name)))?;
        }
        change.update(&host)?;
        Ok(())
    }
}
