//! On this machine's own control groups, as root: every hierarchy is what the trait promises, and processor time is
//! divided as was asked. What is compared is the groups' own count of processor time, never a clock.

mod guest;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use gantry_cgroup::{
    Cgroups, Group, Limits, Version,
    conformance::{self, Controllers},
};

/// Ended with the test, whatever happens.
struct Process(Child);

impl Process {
    /// Uses all of processor 0 that it gets.
    fn burner() -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        Self(command.spawn().expect("taskset (util-linux)"))
    }
    fn sleeper() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep (coreutils)"))
    }
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Its groups are removed with it.
struct Scope(Cgroups);

impl Scope {
    fn new(name: &str) -> Self {
        Self(Cgroups::find(&format!("gantry-test-{name}-{}", std::process::id())))
    }
    fn used(&self, path: &str) -> u64 {
        self.0.cpu_usage_us(Path::new(path)).expect("the group's count of processor time")
    }
    /// Applying nothing removes what is empty; a process that was killed may take a moment to leave.
    fn gone(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.0.cpu_usage_us(Path::new("")).is_some() {
            assert!(self.0.apply(&[]).is_empty());
            assert!(Instant::now() < limit, "the groups stay");
            sleep(Duration::from_millis(20));
        }
    }
}

fn group(path: &str, cpu_weight: u32, process: Option<&Process>) -> Group {
    let limits = Limits { cpu_weight, ..Limits::default() };
    Group { path: PathBuf::from(path), limits, pid: process.map(Process::pid) }
}

/// Waits until the groups together have used this much more processor time than now, and says how much each has.
fn measure(scope: &Scope, paths: &[&str], together_us: u64) -> Vec<f64> {
    let before: Vec<u64> = paths.iter().map(|path| scope.used(path)).collect();
    let used = || paths.iter().zip(&before).map(|(path, before)| scope.used(path) - before).collect::<Vec<u64>>();
    let limit = Instant::now() + Duration::from_secs(120);
    while used().iter().sum::<u64>() < together_us {
        assert!(Instant::now() < limit, "the processor gives them nothing: {:?}", used());
        sleep(Duration::from_millis(20));
    }
    used().into_iter().map(|us| us as f64).collect()
}

#[test]
fn every_hierarchy_of_this_machine_is_what_the_trait_promises() {
    let groups = Cgroups::find("gantry-test");
    let support = groups.support().clone();
    let at = |place: &Option<(Version, PathBuf)>, mount: &Path| place.as_ref().is_some_and(|(_, path)| path == mount);
    let mut hierarchies = groups.hierarchies().to_vec();
    // One that has no controller to offer still has groups.
    hierarchies.extend(support.unified_alone());
    assert!(!hierarchies.is_empty(), "no cgroups are mounted here: {}", support.told());
    for (number, hierarchy) in hierarchies.iter().enumerate() {
        let is_account = hierarchy.name().contains("cpuacct");
        let has = Controllers {
            cpu: at(&support.cpu, hierarchy.mount()) && !is_account && !hierarchy.name().contains("(memory)"),
            memory: at(&support.memory, hierarchy.mount()) && !is_account && !hierarchy.name().contains("(cpu)"),
        };
        let sleeper = Process::sleeper();
        let name = format!("gantry-test-conformance-{number}-{}", std::process::id());
        conformance::run(&**hierarchy, &name, sleeper.pid(), has).unwrap_or_else(|why| panic!("{why}"));
        eprintln!("{} conforms, {has:?}", hierarchy.name());
    }
}

#[test]
fn processor_time_is_divided_by_weights_also_between_nested_pools() {
    let scope = Scope::new("division");
    let burners = [Process::burner(), Process::burner(), Process::burner()];
    // 1 : 3 between the pools; in the larger one two that share evenly.
    let wanted = [
        group("", 300, None),
        group("small", 2500, None),
        group("small/a", 10_000, Some(&burners[0])),
        group("large", 7500, None),
        group("large/b", 5000, Some(&burners[1])),
        group("large/c", 5000, Some(&burners[2])),
    ];
    let errors = scope.0.apply(&wanted);
    assert!(errors.is_empty(), "{errors:?}");
    let used = measure(&scope, &["small", "large", "large/b", "large/c"], 4_000_000);
    let outer = used[1] / used[0];
    assert!((2.4..3.8).contains(&outer), "3 times the weight got {outer:.2} times as much");
    let inner = used[2] / used[3];
    assert!((0.75..1.35).contains(&inner), "the same weight got {inner:.2} times as much");
    // The other way round, while they run.
    let turned = [group("small", 7500, None), group("large", 2500, None)];
    let turned: Vec<Group> = wanted
        .iter()
        .map(|group| turned.iter().find(|other| other.path == group.path).unwrap_or(group).clone())
        .collect();
    assert!(scope.0.apply(&turned).is_empty());
    let used = measure(&scope, &["small", "large"], 2_000_000);
    let outer = used[0] / used[1];
    assert!((2.4..3.8).contains(&outer), "3 times the weight got {outer:.2} times as much");
    drop(burners);
    scope.gone();
}

#[test]
fn a_limit_holds_and_is_lowered_and_raised_with_those_inside() {
    let scope = Scope::new("limit");
    let burners = [Process::burner(), Process::burner()];
    let with = |outer: Option<u32>, inner: Option<u32>| {
        let limited = |path: &str, percent, process| {
            let mut group = group(path, 5000, process);
            group.limits.cpu_limit_percent = percent;
            group
        };
        [
            group("", 200, None),
            limited("pool", outer, None),
            limited("pool/vm", inner, Some(&burners[0])),
            limited("free", None, Some(&burners[1])),
        ]
    };
    // Version 1 refuses a limit that is above the one around it, so the order of the writes matters.
    for (outer, inner) in [(Some(40), Some(30)), (Some(10), Some(5)), (Some(80), Some(60)), (None, None)] {
        let errors = scope.0.apply(&with(outer, inner));
        assert!(errors.is_empty(), "{outer:?} {inner:?}: {errors:?}");
    }
    assert!(scope.0.apply(&with(Some(10), Some(10))).is_empty());
    let used = measure(&scope, &["pool", "free"], 2_000_000);
    let part = used[0] / (used[0] + used[1]);
    assert!(part < 0.3, "limited to a tenth of a processor, it got {part:.2} of it against one without a limit");
    drop(burners);
    scope.gone();
}
