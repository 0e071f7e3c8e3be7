//! A VM's screen: its pictures come through the agent, and it moves with the VM.

use futures::StreamExt;
use gantry_api::AgentApi;
use gantry_api::access::ConsoleKind;
use gantry_api::agent::{Assignment, DiskAssignment, MigrationState, PowerAction, VmRunState};
use gantry_types::{ByteSize, Display, PostCopy};
use tokio_tungstenite::tungstenite::Message;

use crate::migration::Move;
use crate::world::{World, code, in_world, request};

/// The first thing a VNC server says (RFC 6143, 7.1.1).
const GREETING: &[u8] = b"RFB 003.008\n";

async fn greeting(world: &World, host: usize, vm: &Assignment) -> Vec<u8> {
    let mut socket = world.agent(host).console(vm.uuid, ConsoleKind::Vnc).await.unwrap();
    match socket.next().await.unwrap().unwrap() {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_screen_is_there_while_it_runs_and_moves_along() {
    in_world(2, async |world| {
        let mut vm = world.assignment("screen-1");
        vm.display = Display::Vga;
        vm.disk = DiskAssignment { image: None, size: ByteSize::mib(8), pool: None };
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        assert_eq!(code(agent.console(vm.uuid, ConsoleKind::Vnc).await), "vm-not-running");
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        assert_eq!(greeting(&world, 0, &vm).await, GREETING);

        let mv = Move::of(&vm);
        mv.begin(&world, 0, PostCopy::Never).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        world.until(1, vm.uuid, "it runs there", |vm| vm.state == VmRunState::Running).await;
        assert_eq!(greeting(&world, 1, &vm).await, GREETING);
        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
        world.agent(1).remove_vm(vm.uuid, vm.epoch + 1).await.unwrap();

        let mut plain = world.assignment("plain-1");
        plain.disk = DiskAssignment { image: None, size: ByteSize::mib(8), pool: None };
        agent.define_vm(&plain).await.unwrap();
        agent.power(plain.uuid, &request(&plain, PowerAction::Start)).await.unwrap();
        assert_eq!(code(agent.console(plain.uuid, ConsoleKind::Vnc).await), "no-display");
        agent.remove_vm(plain.uuid, plain.epoch).await.unwrap();
    });
}
