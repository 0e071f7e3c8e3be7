//! Balance: VMs go from hosts under pressure to others, if that is worth what the move costs.

use gantry_placement::{
    balance::{Cost, Recent, Settings, propose},
    power::MoveCost,
};
use gantry_types::{Advice, BalancePolicy, Policy};

use super::{Findings, busy_hosts, past_moves, recommendation, under_way};
use crate::{
    app::App,
    cluster_view::{Loads, with_snapshot},
};

/// Seconds for which a VM does not go back to where it came from, as a multiple of the hold-down.
const NO_RETURN_FACTOR: u64 = 6;

pub(super) fn look(app: &App, policy: &Policy, rule: &BalancePolicy) -> Findings {
    let hold_down_s = u64::from(rule.hold_down_s);
    let settings = Settings {
        comfortable_fill: f64::from(rule.comfortable_percent) / 100.0,
        hold_down_s,
        no_return_s: hold_down_s * NO_RETURN_FACTOR,
        max_moves: rule.max_moves as usize,
        ..Settings::default()
    };
    // A move that failed is not tried again at once either.
    let recent: Vec<Recent> = past_moves(app, hold_down_s * NO_RETURN_FACTOR)
        .into_iter()
        .map(|past| Recent { vm: past.vm, from: past.from, age_s: past.age_s })
        .collect();
    let (cost, busy) = (cost(app), busy_hosts(app));
    let advice = with_snapshot(app, &policy.spec.cluster, Loads::Now, |snapshot| {
        propose(snapshot, &settings, &cost, &recent, &busy)
    });
    let recommendations: Vec<_> = advice
        .moves
        .into_iter()
        .map(|proposal| {
            let step = proposal.planned;
            let advice = Advice::Move { vm: step.name, from: step.from, to: step.to };
            recommendation(advice, step.reason, proposal.benefit_cpu_s, proposal.cost_cpu_s)
        })
        .collect();
    let finding = match advice.why_none {
        Some(why) => why,
        None => format!("{} moves would take pressure off busy hosts", recommendations.len()),
    };
    let may_begin = (rule.max_moves as usize).saturating_sub(under_way(app, policy));
    Findings { finding, recommendations, may_begin }
}

/// As the moves so far have measured it.
pub(super) fn cost(app: &App) -> Cost {
    let (mut moves, mut blackouts) = (Vec::new(), Vec::new());
    app.model.read(|tables| {
        for figures in tables.operations.values().filter_map(|operation| operation.status.figures.as_ref()) {
            moves.push((figures.total_ms as f64 / 1000.0, figures.memory_bytes));
            blackouts.extend(figures.blackout_ms.map(|blackout_ms| blackout_ms as f64));
        }
    });
    let mut cost = Cost { moves: MoveCost::measured(moves), ..Cost::default() };
    if !blackouts.is_empty() {
        cost.blackout_ms = blackouts.iter().sum::<f64>() / blackouts.len() as f64;
    }
    cost
}
