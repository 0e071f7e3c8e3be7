//! VMs with UEFI firmware: what they start with, what they keep, and that it moves with them.

use std::fs;
use std::path::PathBuf;

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, DiskAssignment, MigrationState, PowerAction, VmRunState};
use gantry_types::{ByteSize, Firmware, PostCopy};

use crate::migration::Move;
use crate::world::{World, eventually, in_world, request};

/// With an empty disk, so the firmware is all that runs.
fn firmware_only(world: &World) -> Assignment {
    let mut vm = world.assignment("uefi-1");
    vm.firmware = Firmware::Uefi;
    vm.disk = DiskAssignment { image: None, size: ByteSize::mib(64), pool: None };
    vm
}

fn vm_dir(world: &World, host: usize, vm: &Assignment) -> PathBuf {
    world.hosts[host].state_dir.join(format!("vms/{}", vm.uuid))
}

fn variables(world: &World, host: usize, vm: &Assignment) -> Vec<u8> {
    fs::read(vm_dir(world, host, vm).join("uefi-vars.fd")).unwrap()
}

/// Everything that the guest has printed on its serial line.
fn printed(world: &World, host: usize, vm: &Assignment) -> String {
    String::from_utf8_lossy(&fs::read(vm_dir(world, host, vm).join("console.log")).unwrap_or_default()).into_owned()
}

#[test]
fn the_firmware_runs_and_nothing_of_it_is_left_behind() {
    in_world(1, async |world| {
        let agent = world.agent(0);
        let vm = firmware_only(&world);
        agent.define_vm(&vm).await.unwrap();
        let seen = agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        assert_eq!(seen.state, VmRunState::Running);
        let command_line = fs::read(format!("/proc/{}/cmdline", world.qemus(0)[0])).unwrap();
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        for part in ["pflash0=firmware-code", "pflash1=firmware-vars", "OVMF_CODE", "uefi-vars.fd"] {
            assert!(command_line.contains(part), "{part} is not in {command_line}");
        }
        // It finds nothing to boot, and says so.
        eventually("the firmware speaks", async || printed(&world, 0, &vm).contains("BdsDxe").then_some(())).await;
        assert!(agent.check_liveness(vm.uuid, false).await.unwrap().alive);

        // Its variables are its own, and outlive a stop.
        let kept = variables(&world, 0, &vm);
        assert_ne!(kept, fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap(), "nothing was written");
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        let kept = variables(&world, 0, &vm);
        agent.define_vm(&vm).await.unwrap();
        assert_eq!(variables(&world, 0, &vm), kept);
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();

        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
        assert!(world.qemus(0).is_empty() && agent.observe().await.unwrap().is_empty());
        let state = &world.hosts[0].state_dir;
        assert_eq!(fs::read_dir(state.join("vms")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(state.join("pool/disks")).unwrap().count(), 0);
    });
}

#[test]
fn its_variables_move_with_it() {
    in_world(2, async |world| {
        let vm = firmware_only(&world);
        world.agent(0).define_vm(&vm).await.unwrap();
        world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        eventually("the firmware speaks", async || printed(&world, 0, &vm).contains("BdsDxe").then_some(())).await;

        let mv = Move::of(&vm);
        mv.begin(&world, 0, PostCopy::Never).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        let seen = world.until(1, vm.uuid, "it runs there", |vm| vm.state == VmRunState::Running).await;
        assert_eq!(seen.epoch, vm.epoch + 1);
        assert!(world.agent(1).check_liveness(vm.uuid, false).await.unwrap().alive);
        // QEMU sends the flash as it sends memory, and the destination writes it to its own file.
        let left = variables(&world, 0, &vm);
        assert_ne!(left, fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap(), "nothing was written");
        assert!(variables(&world, 1, &vm) == left, "other variables arrived");

        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
        assert!(world.qemus(0).is_empty());
        assert_eq!(fs::read_dir(world.hosts[0].state_dir.join("vms")).unwrap().count(), 0);

        // And it starts from them.
        let moved = Assignment { epoch: vm.epoch + 1, ..vm.clone() };
        let agent = world.agent(1);
        agent.power(vm.uuid, &request(&moved, PowerAction::Kill)).await.unwrap();
        agent.power(vm.uuid, &request(&moved, PowerAction::Start)).await.unwrap();
        agent.remove_vm(vm.uuid, moved.epoch).await.unwrap();
        assert!(world.qemus(1).is_empty());
    });
}
