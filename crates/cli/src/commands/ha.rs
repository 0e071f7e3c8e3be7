//! `gantry ha …`: what protects a VM, in words.

use gantry_types::{HaPolicy, Vm, VmPhase};

use super::Session;
use crate::{args::HaCommand, exit::Failure, output::print};

pub async fn run(session: &Session, command: HaCommand) -> Result<(), Failure> {
    let HaCommand::Explain { name } = command;
    let vm = session.client()?.get::<Vm>(&name).await?;
    if session.printer.is_structured() {
        return Ok(session.printer.one(&vm)?);
    }
    Ok(print(&explain(&vm))?)
}

/// One line for each thing that can fail.
fn explain(vm: &Vm) -> String {
    let (name, ha, done) = (&vm.metadata.name, &vm.spec.ha, &vm.status.ha);
    let host = vm.status.host.as_ref().map_or("its host", |host| host.as_str());
    let mut rows = vec![("now", format!("{} on {host}", vm.status.phase))];
    match ha.policy {
        HaPolicy::None => {
            rows.push(("if it fails", "it stays failed until somebody starts it".to_owned()));
            rows.push(("to protect it", format!("gantry vm set {name} --ha restart")));
        }
        HaPolicy::Restart => {
            let (limit, hang_s) = (ha.restarts_per_hour, ha.hang_s);
            rows.push(("if its QEMU ends", format!("{host} starts it again at once")));
            rows.push(("if it panics", format!("{host} starts it again at once")));
            rows.push(("if it hangs", format!("{host} starts it again after {hang_s} s without a sign of life")));
            rows.push((
                "if that repeats",
                format!("pauses of 5 s, 10 s, 20 s and so on, {limit} restarts within an hour"),
            ));
        }
    }
    rows.push((
        "if its host dies",
        format!(
            "its disk is only on {host}: it can't be started elsewhere; {host} starts it again when it has power again"
        ),
    ));
    if done.restarts > 0 {
        let when = done.last_at.map_or_else(String::new, |at| format!(" at {at}"));
        let cause = done.last_cause.as_deref().unwrap_or("it failed");
        rows.push(("restarts so far", format!("{} on {host}, the last{when}: {cause}", done.restarts)));
    }
    if done.given_up && vm.status.phase == VmPhase::Failed {
        rows.push(("given up", format!("it failed too often; when the cause is gone: gantry vm start {name}")));
    }
    let lines: Vec<String> = rows.iter().map(|(what, answer)| format!("{what:<17} {answer}")).collect();
    format!("vm/{name}\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(ha: serde_json::Value, status: serde_json::Value) -> Vm {
        let vm = json!({
            "kind": "vm", "metadata": {"name": "web"}, "status": status,
            "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "ha": ha},
        });
        serde_json::from_value(vm).expect("a VM")
    }

    #[test]
    fn an_unprotected_vm_is_told_so_and_how_to_protect_it() {
        let text = explain(&vm(json!({}), json!({"phase": "running", "host": "host-1"})));
        assert!(text.contains("it stays failed") && text.contains("gantry vm set web --ha restart"), "{text}");
        assert!(text.contains("its disk is only on host-1"), "{text}");
    }

    #[test]
    fn a_protected_vm_says_what_happens_and_what_has_happened() {
        let ha = json!({"policy": "restart", "restarts_per_hour": 3, "hang_s": 60});
        let done = json!({"restarts": 3, "last_cause": "the guest's kernel panicked", "given_up": true});
        let text = explain(&vm(ha, json!({"phase": "failed", "host": "host-1", "ha": done})));
        for part in ["after 60 s", "3 restarts within", "3 on host-1", "panicked", "gantry vm start web"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
