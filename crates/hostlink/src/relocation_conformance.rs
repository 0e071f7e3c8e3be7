//! The conformance suite's part about stopped VMs on their way. What arrives is looked at end to end: it takes two hosts.

use gantry_api::{
    AgentApi,
    agent::{Assignment, PowerAction},
    relocation::{DiskArrival, ExpectDisk, SendDisk},
};
use gantry_types::{ErrorClass, Name};
use uuid::Uuid;

use crate::conformance::{expect, power, refused, state, worked};

/// Of a host that neither has nor gets the VM.
pub(crate) async fn expectations_repeat(agent: &dyn AgentApi, vm: &Assignment, elsewhere: &Name) -> Result<(), String> {
    let request = ExpectDisk { relocation: Uuid::new_v4(), assignment: vm.clone(), source: elsewhere.clone() };
    for _ in 0..2 {
        let arrival = worked("expect", agent.expect_disk(vm.uuid, &request).await)?;
        expect(arrival == DiskArrival::Expected { received_bytes: 0, total_bytes: 0 }, format!("it is {arrival:?}"))?;
    }
    expect(state(agent, vm.uuid).await?.is_none(), "an expected VM is not there yet")?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;

    let send = |epoch: u64| SendDisk {
        epoch,
        destination: elsewhere.clone(),
        destination_agent: "127.0.0.1:1".to_owned(),
        clone: None,
        snapshot: None,
    };
    let unknown = agent.send_disk(vm.uuid, &send(vm.epoch)).await.map_err(|problem| problem.class);
    expect(unknown == Err(ErrorClass::NotFound), format!("sending what is not there: {unknown:?}"))?;
    worked("define", agent.define_vm(vm).await)?;
    let here = worked("expect what is here", agent.expect_disk(vm.uuid, &request).await)?;
    expect(here == DiskArrival::Arrived, format!("a VM that is here is {here:?}"))?;
    let higher = ExpectDisk { assignment: Assignment { epoch: vm.epoch + 1, ..vm.clone() }, ..request };
    refused("expecting it anew", "vm-exists", agent.expect_disk(vm.uuid, &higher).await)?;
    refused("an older order", "stale-epoch", agent.send_disk(vm.uuid, &send(vm.epoch - 1)).await)?;
    let nobody = agent.send_disk(vm.uuid, &send(vm.epoch)).await.map_err(|problem| problem.class);
    expect(nobody == Err(ErrorClass::Transient), format!("sending to nobody: {nobody:?}"))?;
    power(agent, vm, PowerAction::Start).await?;
    refused("sending a running VM's disk", "vm-running", agent.send_disk(vm.uuid, &send(vm.epoch)).await)?;
    let clone = |epoch: u64| SendDisk { clone: Some(Uuid::new_v4()), ..send(epoch) };
    refused("an older order for a clone", "stale-epoch", agent.send_disk(vm.uuid, &clone(vm.epoch - 1)).await)?;
    let nobody = agent.send_disk(vm.uuid, &clone(vm.epoch)).await.map_err(|problem| problem.class);
    expect(nobody == Err(ErrorClass::Transient), format!("sending a running VM's copy to nobody: {nobody:?}"))?;
    let copied = worked("ask for a copy that nobody makes", agent.disk_copied(vm.uuid, Uuid::new_v4()).await)?;
    expect(copied.is_none(), format!("a copy that nobody makes is {copied:?}"))?;
    let gone = SendDisk { snapshot: Some(Uuid::new_v4()), ..clone(vm.epoch) };
    let gone = agent.send_disk(vm.uuid, &gone).await.map_err(|problem| problem.class);
    expect(gone == Err(ErrorClass::NotFound), format!("sending a snapshot that is not there: {gone:?}"))?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}
