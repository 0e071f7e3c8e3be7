//! A host's lease in a word or two.

use gantry_types::{Host, HostState, LeaseStanding};

pub(super) fn cell(host: &Host) -> String {
    let status = &host.status;
    if status.fence.is_some() {
        return "fenced".to_owned();
    }
    let Some(lease) = status.lease.as_ref().filter(|_| status.state == HostState::Ready) else { return "-".to_owned() };
    if lease.problem.is_some() {
        return "no warden".to_owned();
    }
    match (lease.standing, lease.left_ms) {
        (LeaseStanding::Unbound, _) => "unbound".to_owned(),
        (LeaseStanding::Held, Some(left_ms)) => format!("held {:.1}s", left_ms as f64 / 1000.0),
        (LeaseStanding::Held, None) => "held".to_owned(),
        (LeaseStanding::Lapsed, _) => "lapsed".to_owned(),
        (LeaseStanding::Fenced, _) => "fenced".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(status: serde_json::Value) -> Host {
        let host = json!({"kind": "host", "metadata": {"name": "host-1"}, "spec": {}, "status": status});
        serde_json::from_value(host).expect("a host")
    }

    #[test]
    fn what_is_known_is_shown_and_of_a_lost_host_nothing_is() {
        for (lease, expected) in [
            (json!({"standing": "held", "left_ms": 3400}), "held 3.4s"),
            (json!({"standing": "unbound"}), "unbound"),
            (json!({"standing": "lapsed"}), "lapsed"),
            (json!({"standing": "held", "left_ms": 1, "problem": "the warden can't be reached"}), "no warden"),
        ] {
            assert_eq!(cell(&host(json!({"state": "ready", "lease": lease}))), expected);
            assert_eq!(cell(&host(json!({"state": "lost", "lease": lease}))), "-");
        }
        assert_eq!(cell(&host(json!({"state": "ready"}))), "-");
    }
}
