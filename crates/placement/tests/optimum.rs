//! Batches against the optimum by an exact solver.

mod datacenter;

use std::collections::BTreeSet;

use datacenter::{host, request};
use gantry_placement::{HostFacts, Request, Settings, Snapshot, Weights, place_batch};
use good_lp::{Expression, Solution, SolverModel, Variable, constraint, microlp, variable, variables};

const CPU_OVERCOMMIT: f64 = 2.0;

/// A fixed sequence of numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        least + (self.0 >> 33) % (most - least + 1)
    }
}

/// The fewest hosts that take all VMs; `None` if they don't fit.
fn fewest(hosts: &[HostFacts], requests: &[Request]) -> Option<usize> {
    let mut vars = variables!();
    let used: Vec<Variable> = hosts.iter().map(|_| vars.add(variable().binary())).collect();
    let on: Vec<Vec<Variable>> =
        requests.iter().map(|_| hosts.iter().map(|_| vars.add(variable().binary())).collect()).collect();
    let objective: Expression = used.iter().copied().sum();
    let mut model = vars.minimise(objective).using(microlp);
    for vm in &on {
        let places: Expression = vm.iter().copied().sum();
        model = model.with(constraint!(places == 1));
    }
    for (at, host) in hosts.iter().enumerate() {
        let memory: Expression = requests.iter().zip(&on).map(|(vm, on)| on[at] * vm.memory.as_mib() as f64).sum();
        let cpus: Expression = requests.iter().zip(&on).map(|(vm, on)| on[at] * f64::from(vm.cpus)).sum();
        model = model.with(constraint!(memory <= used[at] * host.memory.as_mib() as f64));
        model = model.with(constraint!(cpus <= used[at] * (f64::from(host.cpus) * CPU_OVERCOMMIT)));
    }
    let solution = model.solve().ok()?;
    Some(used.iter().filter(|used| solution.value(**used) > 0.5).count())
}

#[test]
fn a_packed_batch_needs_hardly_more_hosts_than_the_optimum() {
    let mut numbers = Numbers(42);
    let (mut ratios, mut cases) = (Vec::new(), 0);
    while cases < 60 {
        let hosts: Vec<HostFacts> = (0..numbers.between(3, 5))
            .map(|number| host(number as usize, numbers.between(4, 12) * 512, numbers.between(2, 6) as u32))
            .collect();
        let requests: Vec<Request> = (0..numbers.between(4, 9))
            .map(|number| request(number as usize, numbers.between(2, 20) * 128, numbers.between(1, 4) as u32, "a"))
            .collect();
        let Some(optimum) = fewest(&hosts, &requests) else { continue };
        cases += 1;
        let packed = Settings { cpu_overcommit: CPU_OVERCOMMIT, weights: Weights::pack(), ..Settings::default() };
        let answers = place_batch(&Snapshot::build(packed, hosts, []), &requests);
        let used: BTreeSet<_> =
            answers.iter().map(|(vm, answer)| &answer.as_ref().unwrap_or_else(|e| panic!("{vm}: {e}")).host).collect();
        assert!(used.len() >= optimum, "the solver is wrong");
        ratios.push(used.len() as f64 / optimum as f64);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!("hosts used ÷ optimum: mean {mean:.4} over {} cases", ratios.len());
    assert!(mean <= 1.02, "mean {mean}");
}
