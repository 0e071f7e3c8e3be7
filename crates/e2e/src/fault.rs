//! Breaking one participant of a move at one moment of it, and putting it right again.
//!
//! A moment is seen in what the participants themselves have written down (the source's record, the destination's
//! verdict) or in what the API reports, so it is reached each time and not by luck. Between "reached" and "broken" lie
//! one or two milliseconds, in which the move goes on: the participant is chosen beforehand.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gantry_types::{Operation, Vm};
use serde_json::Value;
use uuid::Uuid;

use crate::Lab;
use crate::lab::{crash, host_of};

const MOMENT_LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Points of a move, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The source has its order; the disk is about to be mirrored.
    Sending,
    /// Memory is on its way.
    Memory,
    /// The guest's processors have stopped at the source, which has not handed over yet.
    Switchover,
    /// The source has written down that it will never run the guest again by itself.
    HandedOver,
    /// The destination has decided.
    Decided,
    /// The controller has recorded the new place.
    Recorded,
}

impl Moment {
    pub const ALL: [Self; 6] =
        [Self::Sending, Self::Memory, Self::Switchover, Self::HandedOver, Self::Decided, Self::Recorded];
}

/// What happens to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    SourceAgentCrash,
    DestinationAgentCrash,
    ControllerCrash,
    SourceQemuCrash,
    DestinationQemuCrash,
    SourcePowerLoss,
    DestinationPowerLoss,
    SourceCableCut,
    DestinationCableCut,
}

impl Fault {
    /// Whether the guest's memory may be lost with it: the VM then has failed, and somebody has to start it again.
    pub fn may_end_the_guest(self) -> bool {
        matches!(self, Self::SourceQemuCrash | Self::DestinationQemuCrash)
    }
}

/// A move between two hosts of a lab.
#[derive(Debug, Clone)]
pub struct Move {
    pub vm: Uuid,
    pub name: String,
    pub source: u8,
    pub destination: u8,
    pub operation: String,
}

impl Move {
    pub fn new(vm: &Vm, destination: u8, operation: &Operation) -> Result<Self> {
        Ok(Self {
            vm: vm.metadata.uuid,
            name: vm.metadata.name.to_string(),
            source: host_of(vm)?,
            destination,
            operation: operation.metadata.name.to_string(),
        })
    }

    /// Waits for the moment. Returns false if the move ended (or got past it unseen) before.
    pub async fn reaches(&self, lab: &Lab, moment: Moment) -> Result<bool> {
        let deadline = Instant::now() + MOMENT_LIMIT;
        let mut guest = GuestStop::default();
        while Instant::now() < deadline {
            let reached = match moment {
                Moment::Sending => matches!(self.source_state(lab).as_deref(), Some("sending")),
                Moment::Memory => self.reported_phase(lab).await?.as_deref() == Some("memory"),
                Moment::Switchover => {
                    self.source_state(lab).as_deref() == Some("sending")
                        && guest.stands_still(self.vm, self.source, lab)
                }
                Moment::HandedOver => matches!(self.source_state(lab).as_deref(), Some("committing" | "moved")),
                Moment::Decided => self.is_decided(lab),
                Moment::Recorded => {
                    let vm: Vm = lab.client().get(&self.name).await?;
                    host_of(&vm)? == self.destination
                }
            };
            if reached {
                return Ok(true);
            }
            if matches!(moment, Moment::Memory | Moment::Recorded) {
                let operation: Operation = lab.client().get(&self.operation).await?;
                if operation.status.phase.is_finished() {
                    return Ok(false);
                }
            } else if self.source_state(lab).is_some_and(|state| state == "failed" || state == "cancelled") {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("the move of {} never reached {moment:?}", self.name)
    }

    fn source_state(&self, lab: &Lab) -> Option<String> {
        let path = lab.room().host_directory(self.source).join(format!("vms/{}/record.json", self.vm));
        let record: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        record["migration"]["state"].as_str().map(str::to_owned)
    }

    fn is_decided(&self, lab: &Lab) -> bool {
        let verdicts = lab.room().host_directory(self.destination).join("verdicts");
        let Ok(entries) = fs::read_dir(verdicts) else { return false };
        entries.flatten().filter_map(|entry| fs::read(entry.path()).ok()).any(|text| {
            let verdict = serde_json::from_slice::<Value>(&text).unwrap_or_default();
            verdict["vm"].as_str() == Some(&self.vm.to_string())
        })
    }

    async fn reported_phase(&self, lab: &Lab) -> Result<Option<String>> {
        let vm: Vm = lab.client().get(&self.name).await?;
        Ok(vm.status.migration.map(|progress| progress.phase))
    }

    fn crash_qemu(&self, lab: &Lab, host: u8) -> Result<()> {
        let sight = crate::qemus(self.vm).into_iter().find(|sight| lab.is_on(host, sight.namespace));
        let sight = sight.with_context(|| format!("VM {} has no QEMU on host-{host}", self.name))?;
        crash(i32::try_from(sight.pid)?)
    }

    /// Breaks the participant.
    pub async fn strike(&self, lab: &Lab, fault: Fault) -> Result<()> {
        match fault {
            Fault::SourceAgentCrash => lab.crash_agent(self.source),
            Fault::DestinationAgentCrash => lab.crash_agent(self.destination),
            Fault::ControllerCrash => lab.crash_controller(),
            Fault::SourceQemuCrash => self.crash_qemu(lab, self.source),
            Fault::DestinationQemuCrash => self.crash_qemu(lab, self.destination),
            Fault::SourcePowerLoss => lab.room().unplug(self.source).map(drop),
            Fault::DestinationPowerLoss => lab.room().unplug(self.destination).map(drop),
            Fault::SourceCableCut => lab.room().cut(self.source),
            Fault::DestinationCableCut => lab.room().cut(self.destination),
        }
    }

    /// Puts right what [`Self::strike`] broke.
    pub async fn repair(&self, lab: &Lab, fault: Fault) -> Result<()> {
        match fault {
            Fault::SourceAgentCrash | Fault::DestinationAgentCrash | Fault::ControllerCrash => lab.resume().await,
            Fault::SourceQemuCrash | Fault::DestinationQemuCrash => Ok(()),
            Fault::SourcePowerLoss => lab.cable("plug", self.source).await,
            Fault::DestinationPowerLoss => lab.cable("plug", self.destination).await,
            Fault::SourceCableCut => lab.cable("mend", self.source).await,
            Fault::DestinationCableCut => lab.cable("mend", self.destination).await,
        }
        .with_context(|| format!("repairing after {fault:?}"))
    }
}

/// Notices that a guest that was busy has stopped.
#[derive(Default)]
struct GuestStop {
    last_ticks: u64,
    since: Option<Instant>,
}

impl GuestStop {
    /// A busy guest uses a tick of 10 ms all the time.
    const STILL: Duration = Duration::from_millis(60);

    fn stands_still(&mut self, vm: Uuid, host: u8, lab: &Lab) -> bool {
        let sight = crate::qemus(vm).into_iter().find(|sight| lab.is_on(host, sight.namespace));
        let Some(sight) = sight else { return false };
        if sight.guest_ticks != self.last_ticks {
            (self.last_ticks, self.since) = (sight.guest_ticks, Some(Instant::now()));
        }
        self.since.is_some_and(|since| since.elapsed() >= Self::STILL)
    }
}
