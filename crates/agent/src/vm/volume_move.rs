//! Moves a volume that a VM has to another pool of this host, while the guest writes.
//!
//! The record decides where the volume is. It is written while QEMU holds the volume's requests back, when both places
//! have the same content: an agent that dies before leaves the volume whole where it was, one that dies after it, where it
//! went. Its successor ends what was begun ([`VmTask::settle_volume_moves`]), because until then the guest's requests wait.
//!
//! Nothing goes on by itself: who wants the move asks again and again how far it is.

use gantry_api::agent::Assignment;
use gantry_api::storage::{MoveVolume, PoolAssignment, VolumeAssignment, VolumeMoveReport};
use gantry_qemu::volume_move::{VolumeMove, advance, finish, give_up, settle};
use gantry_types::Problem;

use super::actor::{Run, VmTask};
use super::volumes::{describe, give};
use super::{MONITOR_LIMIT, within};
use crate::problem::problem;
use crate::records::Record;

impl VmTask {
    pub(super) async fn move_volume(&mut self, request: MoveVolume) -> Result<VolumeMoveReport, Problem> {
        let Some(volume) = self.find_moving(&request)? else { return Ok(VolumeMoveReport::Moved) };
        self.expect_exports_answer().await?;
        let record = self.known()?;
        let what = format!("volume '{}' of VM '{}'", volume.name, record.assignment.name);
        let there = VolumeAssignment { pool: request.to.clone(), ..volume.clone() };
        give(&self.host, &there, Some(record.owner_uid), &what).await?;
        let (from, to) = (describe(&self.host, &volume), describe(&self.host, &there));
        let moving = within(MONITOR_LIMIT, self.vm, advance(&self.machine()?.qmp, &from, &to)).await?;
        match moving.map_err(|error| problem("volume-not-moved", &what, &error))? {
            VolumeMove::Copying { done_bytes, total_bytes } => {
                Ok(VolumeMoveReport::Copying { done_bytes, total_bytes })
            }
            VolumeMove::Pending => {
                if let Err(error) = self.note_place(&volume, &request.to).await {
                    // What is not on disk has not happened: the guest goes on where it was.
                    let gone_back = within(MONITOR_LIMIT, self.vm, give_up(&self.machine()?.qmp, &from, &to)).await?;
                    gone_back.map_err(|error| problem("volume-not-moved", &what, &error))?;
                    return Err(error);
                }
                let finished = within(MONITOR_LIMIT, self.vm, finish(&self.machine()?.qmp, &from, &to)).await?;
                finished.map_err(|error| problem("volume-not-moved", &what, &error))?;
                Ok(VolumeMoveReport::Moved)
            }
        }
    }

    pub(super) async fn cancel_volume_move(&mut self, request: MoveVolume) -> Result<VolumeMoveReport, Problem> {
        let Some(volume) = self.find_moving(&request)? else { return Ok(VolumeMoveReport::Moved) };
        if !matches!(self.run, Run::Off) {
            let what = format!("volume '{}' of VM '{}'", volume.name, self.known()?.assignment.name);
            let there = VolumeAssignment { pool: request.to, ..volume.clone() };
            let (from, to) = (describe(&self.host, &volume), describe(&self.host, &there));
            let given_up = within(MONITOR_LIMIT, self.vm, give_up(&self.machine()?.qmp, &from, &to)).await?;
            given_up.map_err(|error| problem("volume-not-moved", &what, &error))?;
        }
        Ok(VolumeMoveReport::Cancelled)
    }

    /// After the agent has come back: no guest waits for a decision that nobody makes.
    pub(super) async fn settle_volume_moves(&mut self) {
        let (Run::On(machine), Some(record)) = (&self.run, &self.record) else { return };
        for volume in &record.assignment.volumes {
            let now = describe(&self.host, volume);
            let settled = within(MONITOR_LIMIT, self.vm, settle(&machine.qmp, &now)).await;
            match settled {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(vm = %self.vm, %error, "a volume's move could not be settled"),
                Err(error) => tracing::error!(vm = %self.vm, %error, "a volume's move could not be settled"),
            }
        }
    }

    /// The volume of a request, as the VM has it; none if it has moved already.
    fn find_moving(&self, request: &MoveVolume) -> Result<Option<VolumeAssignment>, Problem> {
        self.check_volume_change(request.epoch)?;
        let record = self.known()?;
        let has = record.assignment.volumes.iter().find(|has| has.uuid == request.volume).cloned();
        let volume = has.ok_or_else(|| Problem::not_found("volume", &request.volume.to_string()))?;
        Ok(Some(volume).filter(|volume| volume.pool.uuid != request.to.uuid))
    }

    async fn note_place(&mut self, volume: &VolumeAssignment, to: &PoolAssignment) -> Result<(), Problem> {
        let record = self.known()?;
        let mut volumes = record.assignment.volumes.clone();
        for has in volumes.iter_mut().filter(|has| has.uuid == volume.uuid) {
            has.pool = to.clone();
        }
        let assignment = Assignment { volumes, ..record.assignment.clone() };
        let record = Record { assignment, ..record.clone() };
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        self.record = Some(record);
        Ok(())
    }
}
