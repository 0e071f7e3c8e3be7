//! Notices when the service manager would end every VM of this host together with the agent.
//!
//! QEMU processes are in sessions of their own, but they stay in the control group of the service that started them, and
//! systemd by default ends all of it. Only the unit can change that, so this says so; it changes nothing.

use std::process::Stdio;
use std::time::Duration;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Logs a warning if stopping the agent's service ends its VMs, or may.
pub(crate) async fn warn_of_ended_vms() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(unit) = service_of(&own) else { return };
    if let Some(warning) = danger(unit, kill_mode(unit).await.as_deref()) {
        tracing::warn!("{warning}");
    }
}

/// The systemd service in whose control group a process is, from its `/proc/PID/cgroup` (cgroups(7)).
fn service_of(cgroups: &str) -> Option<&str> {
    // The hierarchies of version 1 besides systemd's own say nothing about units.
    let path = cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        matches!(controllers, "" | "name=systemd").then_some(path)
    })?;
    path.rsplit('/').next().filter(|last| last.ends_with(".service"))
}

/// `None` if systemd does not tell.
async fn kill_mode(unit: &str) -> Option<String> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["show", "--property=KillMode", "--value", "--", unit]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_LIMIT, command.output()).await.ok()?.ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !answer.trim().is_empty()).then(|| answer.trim().to_owned())
}

fn danger(unit: &str, kill_mode: Option<&str>) -> Option<String> {
    let finding = match kill_mode {
        Some("process" | "none") => return None,
        Some(other) => {
            format!("{unit} has KillMode={other}: when it is stopped or restarted, every VM of this host ends")
        }
        None => {
            format!("the KillMode of {unit} can't be seen: unless it is process, every VM of this host ends with it")
        }
    };
    Some(format!("{finding}. Put KillMode=process into its [Service] section, then run systemctl daemon-reload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_from_a_login_and_a_container() {
        assert_eq!(service_of("0::/system.slice/gantry-agent.service\n"), Some("gantry-agent.service"));
        let version_1 = "12:memory:/\n1:name=systemd:/system.slice/gantry-agent.service\n";
        assert_eq!(service_of(version_1), Some("gantry-agent.service"));
        let login = "0::/user.slice/user-0.slice/user@0.service/app.slice/run-7.scope\n";
        for other in ["0::/\n", "0::/user.slice/user-0.slice/session-3.scope\n", login, "12:memory:/a.service\n", ""] {
            assert_eq!(service_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_unit_that_leaves_qemu_alone_is_fine() {
        assert_eq!(danger("a.service", Some("process")), None);
        for kill_mode in [Some("control-group"), Some("mixed"), None] {
            let warning = danger("a.service", kill_mode).unwrap();
            assert!(warning.contains("a.service") && warning.contains("KillMode=process"), "{warning}");
        }
    }
}
