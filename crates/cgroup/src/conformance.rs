//! What every [`Hierarchy`] must do, as a suite: this crate's tests run it on the kernel's own hierarchies, whatever they
//! are on the machine. A check that fails says what it expected; nothing here panics. Everything is removed afterwards.

use std::path::Path;

use crate::{Hierarchy, Limits};

/// What a hierarchy is expected to have a controller for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controllers {
    pub cpu: bool,
    pub memory: bool,
}

/// Runs all checks below a group of this name, with a process that sleeps.
///
/// # Errors
/// The first check that failed, and why.
pub fn run(hierarchy: &dyn Hierarchy, name: &str, sleeper: u32, has: Controllers) -> Result<(), String> {
    let outer = Path::new(name);
    let checked = check(hierarchy, outer, sleeper, has);
    hierarchy.remove(&outer.join("inner"));
    hierarchy.remove(outer);
    checked.map_err(|why| format!("{}: {why}", hierarchy.name()))
}

fn expect(holds: bool, what: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn check(hierarchy: &dyn Hierarchy, outer: &Path, sleeper: u32, has: Controllers) -> Result<(), String> {
    let inner = outer.join("inner");
    let worked = |what: &str, done: Result<(), crate::CgroupError>| {
        done.map_err(|error| format!("{what}: {error}: {}", error.source))
    };
    for _ in 0..2 {
        worked("make", hierarchy.make(&inner))?;
    }
    expect(hierarchy.inside(outer) == ["inner"], "the inner group is not told of")?;

    let wide = Limits { cpu_weight: 250, cpu_limit_percent: Some(150), ..Limits::default() };
    let wide = Limits { memory_limit_bytes: Some(512 << 20), memory_protected_bytes: 64 << 20, ..wide };
    let narrow = Limits { cpu_weight: 50, cpu_limit_percent: Some(20), ..wide };
    for limits in [wide, narrow, Limits::default()] {
        for _ in 0..2 {
            worked("limit", hierarchy.limit(&inner, &limits))?;
        }
        let found = hierarchy.limits(&inner).map_err(|error| error.to_string())?;
        // Version 1 counts shares in steps of its own.
        let weight_is_near = found.cpu_weight.abs_diff(limits.cpu_weight) <= 1;
        expect(!has.cpu || weight_is_near, format!("weight {} instead of {}", found.cpu_weight, limits.cpu_weight))?;
        let quota = (found.cpu_limit_percent, limits.cpu_limit_percent);
        expect(!has.cpu || quota.0 == quota.1, format!("limit {:?} instead of {:?}", quota.0, quota.1))?;
        let memory = (found.memory_limit_bytes, limits.memory_limit_bytes);
        expect(!has.memory || memory.0 == memory.1, format!("memory {:?} instead of {:?}", memory.0, memory.1))?;
        let kept = (found.memory_protected_bytes, limits.memory_protected_bytes);
        expect(!has.memory || kept.0 == kept.1, format!("protected {} instead of {}", kept.0, kept.1))?;
    }

    for _ in 0..2 {
        worked("put", hierarchy.put(&inner, sleeper))?;
    }
    expect(hierarchy.processes(&inner) == [sleeper], "the process is not in its group")?;
    expect(!hierarchy.remove(&inner), "a group with a process in it is gone")?;
    worked("put back", hierarchy.put(Path::new(""), sleeper))?;
    // No process has this number: pid_max is at most 2^22.
    worked("put one that has ended", hierarchy.put(&inner, (1 << 22) + 1))?;
    expect(hierarchy.remove(&inner), "an empty group stays")?;
    expect(hierarchy.remove(&inner), "removing what is gone is no success")?;
    expect(hierarchy.inside(outer).is_empty(), "a removed group is told of")
}
