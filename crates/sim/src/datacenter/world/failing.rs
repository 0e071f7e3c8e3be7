//! Programs and machines that start and end, and everything that goes wrong.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use gantry_types::Name;
use uuid::Uuid;

use super::{Program, World};
use crate::datacenter::agent;
use crate::datacenter::hub::{CONTROLLER, Node};
use crate::datacenter::user::host_name;
use crate::faults::Fault;
use crate::rules::host_node;

impl World {
    pub(super) fn start(&mut self, node: Node) -> io::Result<()> {
        if self.programs[node].is_some() {
            return Ok(());
        }
        let (process, inbox) = match node {
            CONTROLLER => self.seat.start()?,
            _ if !self.machine(node).is_powered() => return Ok(()),
            _ => agent::start(self.machine(node), self.memory)?,
        };
        self.hub.note(|| format!("program of {node} starts"));
        self.programs[node] = Some(Program { process, inbox });
        self.run(node);
        Ok(())
    }

    pub(super) fn power_on(&mut self, node: Node) -> io::Result<()> {
        self.machine(node).power_on();
        self.start(node)
    }

    pub(super) fn fail(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Cut(from, to) => self.hub.network(|network| network.cut(from, to)),
            Fault::Mend(from, to) => self.hub.network(|network| network.mend(from, to)),
            Fault::Loss(percent) => self.hub.network(|network| network.loss = percent),
            Fault::Repeats(percent) => self.hub.network(|network| network.repeats = percent),
            Fault::Stragglers(percent) => self.hub.network(|network| network.stragglers = percent),
            Fault::Crash(node) => self.end_program(node),
            Fault::Restart(node) => self.start(node)?,
            Fault::Freeze(node) => self.freeze(node, true),
            Fault::Continue(node) => self.freeze(node, false),
            Fault::PowerOff(node) => {
                self.end_program(node);
                self.machine(node).power_off();
            }
            Fault::PowerOn(node) => self.power_on(node)?,
            Fault::GuestDies(node) => {
                if let Some((vm, _)) = self.machine(node).processes().first() {
                    self.machine(node).end(*vm, "its guest died");
                }
            }
            Fault::DiesWriting(node) => self.machine(node).let_die_writing(true),
            Fault::WardenDies(node) => self.machine(node).warden_dies(),
            Fault::StallDisk(node, for_ms) => {
                let until_us = self.hub.now_us() + for_ms * 1_000;
                match node {
                    CONTROLLER => self.seat.shelf.stalled_until_us.store(until_us, Ordering::Relaxed),
                    _ => self.machine(node).stall_disk(until_us),
                }
            }
            Fault::StepClock(CONTROLLER, by_ms) => self.seat.clock.step_wall(by_ms),
            Fault::StepClock(node, by_ms) => self.machine(node).clock.step_wall(by_ms),
            Fault::Join(node) => {
                self.seat.wishes.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
                self.power_on(node)?;
            }
            Fault::Stop => self.stop_faults()?,
        }
        Ok(())
    }

    fn end_program(&mut self, node: Node) {
        self.programs[node] = None;
        if node != CONTROLLER {
            self.guests.agent_ends(&host_name(node));
        }
    }

    /// Every guest writes, and so does its host to the copy of its disk.
    pub(super) fn write(&self) {
        for machine in &self.machines {
            let reaches = |host: &Name| machine.reaches(host_node(host).unwrap_or(CONTROLLER));
            let executes = |vm: &Uuid| self.guests.executing(*vm).contains(&machine.name);
            for vm in machine.processes().into_iter().map(|(vm, _)| vm).filter(executes) {
                self.guests.guest_writes_over(&machine.name, vm, reaches);
            }
        }
    }

    fn freeze(&mut self, node: Node, is_frozen: bool) {
        if let Some(program) = &mut self.programs[node] {
            program.process.is_frozen = is_frozen;
        }
        self.run(node);
    }

    fn stop_faults(&mut self) -> io::Result<()> {
        self.hub.network(crate::rules::network::Network::mend_all);
        self.stopped = true;
        for node in 0..self.programs.len() {
            if node != CONTROLLER {
                self.machine(node).let_die_writing(false);
                self.power_on(node)?;
            }
            self.freeze(node, false);
            self.start(node)?;
        }
        Ok(())
    }
}
