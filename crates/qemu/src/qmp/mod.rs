//! The QMP client: one connection to one QEMU, any number of commands in flight, events to any
//! number of listeners.
//!
//! A writer task owns the sending half, so that dropping a caller's future never leaves half a
//! command on the wire; a reader task matches replies by id. QEMU's monitor socket serves one client
//! at a time: a second connection waits for its greeting until the first is gone, hence the deadline
//! of [`Qmp::connect`].
//!
//! Failure behaviour: when the connection ends, for whatever reason, every command in flight and every
//! later one fails with [`QmpError::Closed`], and every event stream ends with the same error. The
//! client never reconnects by itself: what was missed meanwhile must be read from QEMU again.

pub mod command;
mod connection;
mod event;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

pub use command::Command;
use connection::Connection;
pub use event::{Event, EventStream, Timestamp};

use crate::ErrorClass;

/// The longest a single line from QEMU may be. The schema, by far the largest answer, has 0.2 MB.
const LINE_LIMIT_BYTES: u64 = 16 << 20;

/// The one capability that QEMU's greeting may offer.
const OUT_OF_BAND: &str = "oob";

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot connect to the QEMU monitor at {}: is the QEMU process running?", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the QEMU monitor at {endpoint} sent no greeting in time: another client may hold the connection")]
    NoGreeting { endpoint: String },
    #[error("the connection to the QEMU monitor is closed ({reason}): QEMU may have ended")]
    Closed { reason: String },
    #[error("QEMU refused `{command}`: {desc} ({error_class})")]
    Refused { command: &'static str, error_class: String, desc: String },
    #[error("QEMU's answer to `{command}` has an unexpected form")]
    Answer {
        command: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("command `{command}` cannot be written as JSON")]
    Encode {
        command: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{missed} QEMU events were lost because they were not read in time")]
    EventsLost { missed: u64 },
    #[error("QEMU did not report `{what}` in time")]
    Timeout { what: String },
}

impl QmpError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect { source, .. } => crate::class_of_io(source),
            Self::NoGreeting { .. } | Self::Closed { .. } | Self::EventsLost { .. } => ErrorClass::Transient,
            Self::Timeout { .. } => ErrorClass::Transient,
            Self::Refused { error_class, .. } => match error_class.as_str() {
                "DeviceNotFound" => ErrorClass::NotFound,
                "CommandNotFound" => ErrorClass::Permanent,
                _ => ErrorClass::Conflict,
            },
            Self::Answer { .. } | Self::Encode { .. } => ErrorClass::Permanent,
        }
    }

    /// QEMU's own description, when it was QEMU that said no.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { desc, .. } => Some(desc),
            _ => None,
        }
    }
}

/// QEMU's version as the greeting gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuVersion {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
    /// The distribution's own suffix, e.g. ` (Debian 1:7.2+dfsg-7)`.
    pub package: String,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A negotiated monitor connection. Clones share it; it closes when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Qmp {
    connection: Arc<Connection>,
    version: QemuVersion,
    out_of_band: bool,
}

impl Qmp {
    /// Connects to a monitor socket and negotiates. While the socket does not exist or refuses (QEMU is
    /// still starting) it is tried again until `deadline`.
    pub async fn connect(path: &Path, deadline: Instant) -> Result<Self, QmpError> {
        let stream = loop {
            let source = match crate::connect_socket(path).await {
                Ok(stream) => break stream,
                Err(source) => source,
            };
            let starting =
                matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
            if !starting || Instant::now() >= deadline {
                return Err(QmpError::Connect { path: path.to_owned(), source });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (reader, writer) = stream.into_split();
        Self::from_stream(reader, writer, &path.display().to_string(), deadline).await
    }

    /// Negotiates over any pair of streams, e.g. the standard streams of a short-lived QEMU.
    pub async fn from_stream(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        endpoint: &str,
        deadline: Instant,
    ) -> Result<Self, QmpError> {
        let negotiate = async {
            let (connection, greeting) = Connection::open(reader, writer).await?;
            let connection = Arc::new(connection);
            let offered = greeting["QMP"]["capabilities"].as_array();
            let out_of_band = offered.is_some_and(|all| all.iter().any(|one| one == OUT_OF_BAND));
            let mut qmp = Self { connection, version: version_of(&greeting), out_of_band: false };
            let enable = out_of_band.then(|| OUT_OF_BAND.to_owned());
            qmp.execute(command::QmpCapabilities { enable: enable.into_iter().collect() }).await?;
            qmp.out_of_band = out_of_band;
            Ok(qmp)
        };
        timeout_at(deadline, negotiate).await.map_err(|_| QmpError::NoGreeting { endpoint: endpoint.to_owned() })?
    }

    pub fn version(&self) -> &QemuVersion {
        &self.version
    }

    /// Runs one command and waits for its answer. Dropping the future abandons the answer, not the command.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Return, QmpError> {
        let arguments =
            serde_json::to_value(&command).map_err(|source| QmpError::Encode { command: C::NAME, source })?;
        let answer = self.connection.execute(C::NAME, arguments, C::OUT_OF_BAND && self.out_of_band).await?;
        serde_json::from_value(answer).map_err(|source| QmpError::Answer { command: C::NAME, source })
    }

    /// Everything QEMU reports from now on. Subscribe before the command whose effect is awaited.
    pub fn events(&self) -> EventStream {
        self.connection.events()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) -> String {
        self.connection.closed().await
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

fn version_of(greeting: &Value) -> QemuVersion {
    let version = &greeting["QMP"]["version"];
    let number = |name: &str| version["qemu"][name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    QemuVersion {
        major: number("major"),
        minor: number("minor"),
        micro: number("micro"),
        package: version["package"].as_str().unwrap_or("").to_owned(),
    }
}
