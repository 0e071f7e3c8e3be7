//! A VM moves between two hosts, with agents and QEMUs dying on the way: it runs in exactly one place.

use gantry_api::AgentApi;
use gantry_api::agent::{
    Assignment, MigrationReport, MigrationState, ReceiveMigration, SendMigration, Verdict, VmRunState,
};
use gantry_types::{MigrationMode, MigrationPolicy, PostCopy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::world::{World, code, eventually, in_world};

pub struct Move {
    vm: Assignment,
    pub migration: Uuid,
}

impl Move {
    pub fn of(vm: &Assignment) -> Self {
        Self { vm: vm.clone(), migration: Uuid::new_v4() }
    }

    fn receive(&self) -> ReceiveMigration {
        let assignment = Assignment { epoch: self.vm.epoch + 1, ..self.vm.clone() };
        let source = "host-1".parse().unwrap();
        ReceiveMigration {
            migration: self.migration,
            source,
            assignment,
            paused: false,
            post_copy: false,
            probes: Vec::new(),
            recovery_points: Vec::new(),
        }
    }

    /// From host 0 to host 1. `mib_per_s` of zero is no limit.
    pub async fn begin(&self, world: &World, mib_per_s: u32, post_copy: PostCopy) {
        let mut receive = self.receive();
        receive.post_copy = post_copy != PostCopy::Never;
        let endpoint = world.agent(1).receive_migration(self.vm.uuid, &receive).await.unwrap();
        assert_eq!(world.agent(1).receive_migration(self.vm.uuid, &receive).await.unwrap(), endpoint);
        let send = SendMigration {
            migration: self.migration,
            epoch: self.vm.epoch,
            endpoint,
            destination: world.hosts[1].name.clone(),
            destination_agent: "10.77.0.2:7443".to_owned(),
            policy: MigrationPolicy { bandwidth_mib_per_s: mib_per_s, post_copy, ..MigrationPolicy::default() },
            post_copy: receive.post_copy,
        };
        for _ in 0..2 {
            world.agent(0).send_migration(self.vm.uuid, &send).await.unwrap();
        }
    }

    async fn report(&self, world: &World, host: usize) -> Option<MigrationReport> {
        world.agent(host).migration_report(self.vm.uuid, self.migration).await.ok()
    }

    pub async fn until(&self, world: &World, host: usize, state: MigrationState) -> MigrationReport {
        let what = format!("{state:?} on host {host}");
        eventually(&what, async || {
            let report = self.report(world, host).await?;
            let failed = report.state == MigrationState::Failed && state != MigrationState::Failed;
            assert!(!failed, "{:?}", report.error);
            (report.state == state).then_some(report)
        })
        .await
    }

    async fn until_memory(&self, world: &World) {
        eventually("memory is being sent", async || {
            let report = self.report(world, 0).await?;
            assert_eq!(report.state, MigrationState::Sending, "{:?}", report.error);
            (report.progress.phase == "memory" && report.progress.memory_bytes_done > 0).then_some(())
        })
        .await;
    }

    fn credentials(&self, world: &World, host: usize) -> std::path::PathBuf {
        world.hosts[host].state_dir.join(format!("vms/{}/tls", self.vm.uuid))
    }

    /// The guest answers here, and nothing of the move is left.
    async fn assert_stayed(&self, world: &World) {
        world.until(0, self.vm.uuid, "it runs on", |vm| vm.state == VmRunState::Running && vm.guest_agent).await;
        let liveness = world.agent(0).check_liveness(self.vm.uuid, true).await.unwrap();
        assert!(liveness.alive, "{}", liveness.evidence);
        eventually("the destination is clean", async || world.look(1, self.vm.uuid).await.is_none().then_some(()))
            .await;
        assert!(world.qemus(1).is_empty());
        assert_eq!(world.qemus(0).len(), 1);
    }
}

#[test]
fn a_vm_moves_and_the_decision_is_final() {
    in_world(2, async |world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let mv = Move::of(&vm);
        mv.begin(&world, 0, PostCopy::Never).await;
        assert_strangers_are_refused(&world, &mv).await;
        let report = mv.until(&world, 0, MigrationState::Moved).await;
        let figures = report.figures.unwrap();
        assert_eq!(figures.mode, Some(MigrationMode::PreCopy));
        assert!(
            figures.memory_bytes > 0 && figures.blackout_ms.is_some_and(|ms| ms > 0) && figures.passes > 0,
            "{figures:?}"
        );

        let (source, destination) = (world.agent(0), world.agent(1));
        let seen = world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
        assert_eq!((seen.state, seen.epoch), (VmRunState::Running, 2));
        assert!(destination.check_liveness(vm.uuid, true).await.unwrap().alive);
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::HandedOver);
        assert_eq!(code(source.remove_vm(vm.uuid, vm.epoch).await), "vm-handed-over");

        // An abort that comes too late changes nothing, whoever asks, however often.
        for asker in [world.agent(1), world.as_host(0, 1)] {
            assert_eq!(asker.abort_migration(vm.uuid, mv.migration).await.unwrap(), Verdict::Committed);
            assert_eq!(asker.commit_migration(vm.uuid, mv.migration).await.unwrap(), Verdict::Committed);
        }
        assert_eq!(code(world.as_host(0, 1).remove_vm(vm.uuid, 9).await), "not-your-call");
        assert_strangers_are_refused(&world, &mv).await;

        for _ in 0..2 {
            source.release_migration(vm.uuid, mv.migration).await.unwrap();
        }
        assert!(world.qemus(0).is_empty() && source.observe().await.unwrap().is_empty());
        assert!(destination.check_liveness(vm.uuid, true).await.unwrap().alive);

        // A migration that nobody knows is over, also for a request that was on its way for long.
        let unknown = Move::of(&vm);
        assert_eq!(source.commit_migration(vm.uuid, unknown.migration).await.unwrap(), Verdict::Aborted);
        assert_eq!(code(source.receive_migration(vm.uuid, &unknown.receive()).await), "migration-decided");
    });
}

/// A host may settle only what it sends itself.
async fn assert_strangers_are_refused(world: &World, mv: &Move) {
    let (vm, migration) = (mv.vm.uuid, mv.migration);
    // The destination itself is no source; and nobody asks the source but controllers.
    for stranger in [world.as_host(1, 1), world.as_host(1, 0)] {
        assert_eq!(code(stranger.migration_report(vm, migration).await), "not-your-migration");
        assert_eq!(code(stranger.commit_migration(vm, migration).await), "not-your-migration");
        assert_eq!(code(stranger.abort_migration(vm, migration).await), "not-your-migration");
    }
}

#[test]
fn post_copy_moves_a_vm() {
    in_world(2, async |world| {
        let mut vm = world.assignment("web-1");
        // Something is left to be fetched after each pass.
        vm.user_data = Some("#cloud-config\nruncmd:\n  - wl dirty 32 40 &\n".to_owned());
        world.boot(0, &vm).await;
        let mv = Move::of(&vm);
        mv.begin(&world, 20, PostCopy::Always).await;
        let figures = mv.until(&world, 0, MigrationState::Moved).await.figures.unwrap();
        assert_eq!(figures.mode, Some(MigrationMode::PostCopy));
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
        assert!(!mv.credentials(&world, 0).exists() && !mv.credentials(&world, 1).exists());
        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
        assert!(world.agent(1).check_liveness(vm.uuid, true).await.unwrap().alive);
    });
}

/// The cable between the hosts is cut when the guest runs at the destination and most of its memory is at the source.
#[test]
fn an_interrupted_post_copy_goes_on_when_the_hosts_meet_again() {
    in_world(2, async |world| {
        let mut vm = world.assignment("web-1");
        vm.user_data = Some("#cloud-config\nruncmd:\n  - wl dirty 48 40 &\n".to_owned());
        world.boot(0, &vm).await;
        let mv = Move::of(&vm);
        mv.begin(&world, 4, PostCopy::Always).await;
        mv.until(&world, 1, MigrationState::Committed).await;
        assert_eq!(mv.report(&world, 0).await.unwrap().state, MigrationState::Committing);
        world.part_hosts(true);
        eventually("the source has noticed", async || {
            let report = mv.report(&world, 0).await?;
            (report.progress.phase == "post_copy_interrupted").then_some(())
        })
        .await;
        // The destination's agent lives on: to a new one a QEMU whose main loop waits for a page may not open its monitor.
        world.part_hosts(false);
        mv.until(&world, 0, MigrationState::Moved).await;
        assert_eq!(mv.report(&world, 1).await.unwrap().recovery_port, None);
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
        assert!(world.agent(1).check_liveness(vm.uuid, true).await.unwrap().alive);
    });
}

#[test]
fn the_destinations_end_and_a_cancel_leave_the_vm_where_it_was() {
    in_world(2, async |world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;

        let killed = Move::of(&vm);
        killed.begin(&world, 4, PostCopy::Never).await;
        killed.until_memory(&world).await;
        kill(Pid::from_raw(world.qemus(1)[0] as i32), Signal::SIGKILL).unwrap();
        killed.until(&world, 0, MigrationState::Failed).await;
        killed.assert_stayed(&world).await;
        let aborted = killed.until(&world, 1, MigrationState::Aborted).await;
        assert!(aborted.error.is_some());

        let cancelled = Move::of(&vm);
        cancelled.begin(&world, 4, PostCopy::Never).await;
        cancelled.until_memory(&world).await;
        for _ in 0..2 {
            world.agent(0).cancel_migration(vm.uuid, cancelled.migration).await.unwrap();
        }
        cancelled.until(&world, 0, MigrationState::Cancelled).await;
        cancelled.assert_stayed(&world).await;

        // Nothing of the failed ones is in the way.
        let mv = Move::of(&vm);
        mv.begin(&world, 0, PostCopy::Never).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
    });
}

/// As when the destination loses its power: no connection ends, nothing answers.
#[test]
fn a_silent_destination_is_given_up_while_copying() {
    in_world(2, async |world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let mv = Move::of(&vm);
        mv.begin(&world, 1, PostCopy::Never).await;
        mv.until_memory(&world).await;
        assert!(!mv.credentials(&world, 1).exists(), "the listeners have read them");
        world.part_hosts(true);
        let error = mv.until(&world, 0, MigrationState::Failed).await.error.unwrap();
        assert_eq!(error.code(), "destination-silent");
        assert!(error.detail.contains("web-1") && !error.detail.contains(&vm.uuid.to_string()), "{}", error.detail);
        assert!(error.remedy.is_some_and(|remedy| remedy.contains("host-2")));
        assert!(!mv.credentials(&world, 0).exists());
        assert!(world.agent(0).check_liveness(vm.uuid, true).await.unwrap().alive, "it runs while they are parted");

        // The destination did not hear of it; the controller tells it.
        world.part_hosts(false);
        assert_eq!(world.agent(1).abort_migration(vm.uuid, mv.migration).await.unwrap(), Verdict::Aborted);
        mv.assert_stayed(&world).await;
    });
}

#[test]
fn agents_killed_on_the_way_come_to_one_end() {
    in_world(2, async |mut world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;

        // The source's agent, while memory is on its way: the VM stays.
        let mv = Move::of(&vm);
        mv.begin(&world, 4, PostCopy::Never).await;
        mv.until_memory(&world).await;
        world.kill_agent(0);
        world.start_agent(0).await;
        mv.until(&world, 0, MigrationState::Failed).await;
        mv.assert_stayed(&world).await;

        // The destination's agent, and it does not come back in time: the VM stays, and runs.
        let mv = Move::of(&vm);
        mv.begin(&world, 16, PostCopy::Never).await;
        mv.until_memory(&world).await;
        world.kill_agent(1);
        mv.until(&world, 0, MigrationState::Failed).await;
        world.start_agent(1).await;
        mv.assert_stayed(&world).await;

        // The destination's agent, and it comes back: it takes its QEMU up again and the move succeeds.
        let mv = Move::of(&vm);
        mv.begin(&world, 4, PostCopy::Never).await;
        mv.until_memory(&world).await;
        world.kill_agent(1);
        world.start_agent(1).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;

        // Both, after the end: all that was decided is still known, and the source does not start the VM again.
        for host in [0, 1] {
            world.kill_agent(host);
            world.start_agent(host).await;
        }
        mv.until(&world, 0, MigrationState::Moved).await;
        mv.until(&world, 1, MigrationState::Committed).await;
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::HandedOver);
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
    });
}

/// The destination has decided against it when the source, its guest handed over, asks: the guest returns.
#[test]
fn an_abort_after_the_hand_over_brings_the_guest_back() {
    in_world(2, async |mut world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let mv = Move::of(&vm);
        mv.begin(&world, 4, PostCopy::Never).await;
        mv.until_memory(&world).await;
        // What an abort leaves whose agent is killed right after it.
        let verdicts = world.hosts[1].state_dir.join("verdicts");
        let decision = format!(r#"{{"vm":"{}","verdict":"aborted","reason":"test"}}"#, vm.uuid);
        std::fs::write(verdicts.join(format!("{}.json", mv.migration)), decision).unwrap();
        let report = mv.until(&world, 0, MigrationState::Failed).await;
        assert_eq!(report.error.unwrap().code(), "migration-aborted");
        mv.assert_stayed(&world).await;

        // And it can still be moved, by an agent that is restarted between the hand-over and the answer.
        let mv = Move::of(&vm);
        mv.begin(&world, 0, PostCopy::Never).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        world.kill_agent(0);
        let path = world.hosts[0].state_dir.join(format!("vms/{}/record.json", vm.uuid));
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["migration"]["state"] = "committing".into();
        std::fs::write(&path, record.to_string()).unwrap();
        // The destination can't be asked for a while: the guest must not run at the source meanwhile.
        world.kill_agent(1);
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is known", |_| true).await;
        assert_eq!(seen.state, VmRunState::HandedOver);
        assert_eq!(mv.report(&world, 0).await.unwrap().state, MigrationState::Committing);
        world.start_agent(1).await;
        mv.until(&world, 0, MigrationState::Moved).await;
        world.until(1, vm.uuid, "it answers there", |vm| vm.guest_agent).await;
        world.agent(0).release_migration(vm.uuid, mv.migration).await.unwrap();
    });
}

#[test]
fn a_guest_that_was_committed_is_not_thrown_away_by_who_did_not_hear_of_it() {
    in_world(2, async |world| {
        let vm = world.assignment("web-1");
        let agent = world.agent(1);
        let mv = Move::of(&vm);
        agent.receive_migration(vm.uuid, &mv.receive()).await.unwrap();
        // Decided, but it can't be taken over: nothing was sent.
        let committing = world.as_host(0, 1);
        assert!(committing.commit_migration(vm.uuid, mv.migration).await.is_err());

        let epoch = vm.epoch + 1;
        assert_eq!(code(agent.remove_vm(vm.uuid, epoch).await), "migration-committed");
        assert_eq!(code(agent.receive_migration(vm.uuid, &Move::of(&vm).receive()).await), "migration-committed");
        assert_eq!(world.qemus(1).len(), 1);
        // Who has decided since may delete it.
        agent.remove_vm(vm.uuid, epoch + 1).await.unwrap();
        assert!(world.qemus(1).is_empty() && world.look(1, vm.uuid).await.is_none());
    });
}
