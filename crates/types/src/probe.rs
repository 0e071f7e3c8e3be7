//! Probes: how a VM's host finds out whether the application in it serves. The words and their meaning are Kubernetes'.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, NicSpec, Problem, Timestamp};

pub const PROBES_PER_VM_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 1024;
const BODY_BYTES_MAX: usize = 1024;
const ARGUMENTS_MAX: usize = 64;
const COMMAND_BYTES_MAX: usize = 4096;

/// A question that a VM's host asks its application again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    #[serde(default)]
    pub kind: ProbeKind,
    pub check: ProbeCheck,
    /// Failures of an application that has not served yet count for nothing for so long after its VM's start, 0–3600 s.
    #[serde(default = "sixty")]
    pub initial_delay_s: u32,
    /// From one question to the next, 1–300 s.
    #[serde(default = "ten")]
    pub period_s: u32,
    /// An answer that takes longer is none, 1–60 s.
    #[serde(default = "one")]
    pub timeout_s: u32,
    /// So many failures in a row make it fail, 1–100.
    #[serde(default = "three")]
    pub failure_threshold: u32,
    /// So many successes in a row make it pass, 1–100; 1 for liveness.
    #[serde(default = "one")]
    pub success_threshold: u32,
}

fn one() -> u32 {
    1
}
fn three() -> u32 {
    3
}
fn ten() -> u32 {
    10
}
fn sixty() -> u32 {
    60
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// A VM that fails it has failed: what follows is as its `ha` says.
    #[default]
    Liveness,
    /// A VM is ready while it passes all of these.
    Readiness,
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        })
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeCheck {
    /// An HTTP answer.
    HttpGet(HttpGet),
    /// A connection that is accepted.
    TcpSocket(TcpSocket),
    /// A program in the guest that ends with status 0; run by the guest's agent, without a shell.
    Exec(Exec),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    pub port: u16,
    #[serde(default = "root")]
    pub path: String,
    /// The network of the card that is asked; that of the first one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// The status that is good, 100–599; any of 200 to 399 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the first 64 KiB of the body have to contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

fn root() -> String {
    "/".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpSocket {
    pub port: u16,
    /// The network of the card that is asked; that of the first one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program's absolute path, then its arguments.
    pub command: Vec<String>,
}

impl Probe {
    /// With the default of everything else.
    pub fn new(kind: ProbeKind, check: ProbeCheck) -> Self {
        Self {
            kind,
            check,
            initial_delay_s: sixty(),
            period_s: ten(),
            timeout_s: one(),
            failure_threshold: three(),
            success_threshold: one(),
        }
    }

    fn mistakes(&self, nics: &[NicSpec]) -> Vec<(&'static str, String)> {
        let mut mistakes = self.check.mistakes(nics);
        let ranges = [
            ("initial_delay_s", self.initial_delay_s, 0, 3600),
            ("period_s", self.period_s, 1, 300),
            ("timeout_s", self.timeout_s, 1, 60),
            ("failure_threshold", self.failure_threshold, 1, 100),
            ("success_threshold", self.success_threshold, 1, 100),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                mistakes.push((field, format!("{value} is out of range, use {low} to {high}")));
            }
        }
        if self.kind == ProbeKind::Liveness && self.success_threshold > 1 {
            let message = "is 1 for a liveness probe: a VM that fails it is started again; use it for readiness";
            mistakes.push(("success_threshold", message.to_owned()));
        }
        mistakes
    }
}

impl ProbeCheck {
    /// The network of the card that is asked, if the check names one.
    pub fn network(&self) -> Option<&Name> {
        match self {
            Self::HttpGet(http) => http.network.as_ref(),
            Self::TcpSocket(tcp) => tcp.network.as_ref(),
            Self::Exec(_) => None,
        }
    }

    fn mistakes(&self, nics: &[NicSpec]) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        match self {
            Self::HttpGet(http) => {
                let path = &http.path;
                if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    let message = "must begin with / and have no spaces; write other characters as %20";
                    mistakes.push(("check.http_get.path", message.to_owned()));
                } else if path.len() > PATH_BYTES_MAX {
                    mistakes.push(("check.http_get.path", format!("is longer than {PATH_BYTES_MAX} bytes")));
                }
                if let Some(status) = http.status.filter(|status| !(100..600).contains(status)) {
                    mistakes.push(("check.http_get.status", format!("{status} is no HTTP status, use 100 to 599")));
                }
                if http.body.as_ref().is_some_and(|body| body.is_empty() || body.len() > BODY_BYTES_MAX) {
                    mistakes.push(("check.http_get.body", format!("needs 1 to {BODY_BYTES_MAX} bytes")));
                }
                mistakes.extend(card_mistake(http.port, http.network.as_ref(), nics));
            }
            Self::TcpSocket(tcp) => mistakes.extend(card_mistake(tcp.port, tcp.network.as_ref(), nics)),
            Self::Exec(Exec { command }) => {
                let bytes: usize = command.iter().map(String::len).sum();
                if !command.first().is_some_and(|path| path.starts_with('/')) {
                    let message =
                        "begins with the absolute path of a program in the guest, such as /usr/bin/pg_isready";
                    mistakes.push(("check.exec.command", message.to_owned()));
                } else if command.len() > ARGUMENTS_MAX || bytes > COMMAND_BYTES_MAX {
                    let message =
                        format!("is too long, use at most {ARGUMENTS_MAX} words of {COMMAND_BYTES_MAX} bytes");
                    mistakes.push(("check.exec.command", message));
                } else if command.iter().any(|word| word.contains('\0')) {
                    mistakes.push(("check.exec.command", "has a zero byte, which no argument can".to_owned()));
                }
            }
        }
        mistakes
    }
}

fn card_mistake(port: u16, network: Option<&Name>, nics: &[NicSpec]) -> Option<(&'static str, String)> {
    if port == 0 {
        return Some(("check", "port 0 is no port, use 1 to 65535".to_owned()));
    }
    match network {
        _ if nics.is_empty() => {
            let message = "the VM has no network card to ask over; use exec, or give it one (spec.nics)";
            Some(("check", message.to_owned()))
        }
        Some(network) if !nics.iter().any(|nic| nic.network == *network) => {
            let known: Vec<&str> = nics.iter().map(|nic| nic.network.as_str()).collect();
            Some(("check", format!("the VM has no card in network '{network}'; it has: {}", known.join(", "))))
        }
        _ => None,
    }
}

/// Adds what is wrong with a VM's probes to the problem's fields.
pub fn validate(probes: &[Probe], nics: &[NicSpec], mut problem: Problem) -> Problem {
    if probes.len() > PROBES_PER_VM_MAX {
        problem =
            problem.field("spec.probes", format!("{} are too many, use at most {PROBES_PER_VM_MAX}", probes.len()));
    }
    for (index, probe) in probes.iter().enumerate() {
        for (field, message) in probe.mistakes(nics) {
            problem = problem.field(format!("spec.probes[{index}].{field}"), message);
        }
    }
    problem
}

/// Why a text is not a [`ProbeCheck`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a probe: write http://:80/health, tcp://:5432 or exec:/path/of/program arguments; before the colon \
     may stand the network of the card that is asked"
)]
pub struct InvalidProbe(String);

/// As people type it: `http://:80/health`, `tcp://backend:5432`, `exec:/usr/bin/pg_isready -q`.
impl FromStr for ProbeCheck {
    type Err = InvalidProbe;
    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let bad = || InvalidProbe(text.chars().filter(|c| !c.is_control()).take(80).collect());
        let place = |place: &str| {
            let (network, port) = place.split_once(':').ok_or_else(bad)?;
            let network = if network.is_empty() { None } else { Some(network.parse::<Name>().map_err(|_| bad())?) };
            let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?;
            Ok::<_, InvalidProbe>((network, port))
        };
        if let Some(rest) = text.strip_prefix("http://") {
            let (at, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
            let (network, port) = place(at)?;
            return Ok(Self::HttpGet(HttpGet { port, path: path.to_owned(), network, status: None, body: None }));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let (network, port) = place(rest)?;
            return Ok(Self::TcpSocket(TcpSocket { port, network }));
        }
        let command: Vec<String> =
            text.strip_prefix("exec:").ok_or_else(bad)?.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() { Err(bad()) } else { Ok(Self::Exec(Exec { command })) }
    }
}

/// As it is typed, without what an HTTP answer has to be.
impl fmt::Display for ProbeCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.network().map_or("", Name::as_str);
        match self {
            Self::HttpGet(HttpGet { port, path, .. }) => write!(f, "http://{network}:{port}{path}"),
            Self::TcpSocket(TcpSocket { port, .. }) => write!(f, "tcp://{network}:{port}"),
            Self::Exec(Exec { command }) => write!(f, "exec:{}", command.join(" ")),
        }
    }
}

/// What has come of a VM's probe on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeStatus {
    pub kind: ProbeKind,
    /// What is asked, as it is typed.
    pub check: String,
    #[serde(default)]
    pub state: ProbeState,
    /// The newest failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is in this state, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl ProbeStatus {
    /// Of a probe whose VM has just been started.
    pub fn new(probe: &Probe) -> Self {
        let (kind, check) = (probe.kind, probe.check.to_string());
        Self { kind, check, state: ProbeState::Starting, message: None, since: None }
    }

    pub fn is_failing(&self, kind: ProbeKind) -> bool {
        (self.kind, self.state) == (kind, ProbeState::Failing)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// It has neither passed nor failed often enough since the VM's start.
    #[default]
    Starting,
    Passing,
    Failing,
}

impl fmt::Display for ProbeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Passing => "passing",
            Self::Failing => "failing",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for text in ["http://:80/health", "http://lan:8080/a?b=c", "tcp://:5432", "tcp://db:1", "exec:/bin/test -f /x"]
        {
            assert_eq!(text.parse::<ProbeCheck>().unwrap().to_string(), text);
        }
        assert_eq!("http://:80".parse::<ProbeCheck>().unwrap().to_string(), "http://:80/");
        for text in ["", "http://80", "http://:0/", "http://:x/", "https://:443/", "tcp://:70000", "tcp://-:1", "exec:"]
        {
            let refused = text.parse::<ProbeCheck>().unwrap_err().to_string();
            assert!(refused.contains("is not a probe: write http://:80/health"), "{refused}");
        }
    }

    #[test]
    fn a_probe_that_says_nothing_more_has_the_defaults() {
        let said = json!({"kind": "readiness", "check": {"tcp_socket": {"port": 5432}}});
        let probe: Probe = serde_json::from_value(said).unwrap();
        assert_eq!(probe, Probe::new(ProbeKind::Readiness, "tcp://:5432".parse().unwrap()));
    }

    #[test]
    fn what_can_not_work_is_named() {
        let nics = [NicSpec::new("lan".parse().unwrap())];
        let refused = |probe: serde_json::Value, nics: &[NicSpec]| {
            let probe: Probe = serde_json::from_value(probe).unwrap();
            let problem = validate(&[probe], nics, Problem::invalid("invalid-vm", "no"));
            problem.fields.into_iter().map(|field| format!("{}: {}", field.field, field.message)).collect::<Vec<_>>()
        };
        let http = |more: serde_json::Value| {
            let mut check = json!({"port": 80});
            check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"check": {"http_get": check}})
        };
        assert!(refused(http(json!({"path": "/health", "status": 204, "body": "ok"})), &nics).is_empty());
        for (probe, expected) in [
            (http(json!({"path": "health"})), "spec.probes[0].check.http_get.path: must begin with /"),
            (http(json!({"path": "/a b"})), "no spaces"),
            (http(json!({"status": 99})), "99 is no HTTP status"),
            (http(json!({"body": ""})), "needs 1 to 1024 bytes"),
            (http(json!({"port": 0})), "0 is no port"),
            (http(json!({"network": "wan"})), "no card in network 'wan'; it has: lan"),
            (json!({"check": {"exec": {"command": ["true"]}}}), "absolute path"),
            (json!({"check": {"exec": {"command": []}}}), "absolute path"),
            (
                json!({"check": {"tcp_socket": {"port": 1}}, "period_s": 0}),
                "spec.probes[0].period_s: 0 is out of range",
            ),
            (json!({"check": {"tcp_socket": {"port": 1}}, "success_threshold": 2}), "is 1 for a liveness probe"),
        ] {
            let refused = refused(probe, &nics);
            assert!(refused.len() == 1 && refused[0].contains(expected), "{expected}: {refused:?}");
        }
        assert!(refused(http(json!({})), &[])[0].contains("no network card"));
        assert!(refused(json!({"check": {"exec": {"command": ["/bin/true"]}}}), &[]).is_empty());
    }
}
