//! Faults that a test asks for, and the record of calls by which it finds out where to put them.

use gantry_types::{Name, Problem};

/// A call of the agent's API that arrived at a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub host: Name,
    /// The method's name, for example `define_vm`.
    pub name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The call does nothing.
    Before,
    /// The call does all it should, and the caller learns nothing of it.
    After,
}

/// Makes calls fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Any host if absent.
    pub host: Option<Name>,
    /// Any call if absent.
    pub call: Option<&'static str>,
    /// This many matching calls pass first.
    pub skip: usize,
    /// Then this many fail.
    pub times: usize,
    pub when: When,
    pub problem: Problem,
}

impl Fault {
    /// The first call of this name fails.
    pub fn once(call: &'static str, when: When, problem: Problem) -> Self {
        Self { host: None, call: Some(call), skip: 0, times: 1, when, problem }
    }
    /// The n-th call of all, from 0, fails.
    pub fn nth(n: usize, when: When, problem: Problem) -> Self {
        Self { host: None, call: None, skip: n, times: 1, when, problem }
    }
}

#[derive(Default)]
pub(super) struct Faults {
    active: Vec<Fault>,
    pub(super) calls: Vec<Call>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// Notes the call and says how it is to fail, if it is.
    pub(super) fn arrive(&mut self, host: &Name, name: &'static str) -> Option<(When, Problem)> {
        self.calls.push(Call { host: host.clone(), name });
        let mut chosen = None;
        for fault in &mut self.active {
            let matches = fault.host.as_ref().is_none_or(|at| at == host) && fault.call.is_none_or(|call| call == name);
            if !matches || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if chosen.is_none() {
                fault.times -= 1;
                chosen = Some((fault.when, fault.problem.clone()));
            }
        }
        chosen
    }
}
