//! A VM's serial console: one connection to QEMU, any number of people.
//!
//! Who opens it gets what was printed last, then everything new. Input of all goes to the guest as it comes. QEMU
//! writes the console's log file itself, so nothing is lost while the agent is away.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gantry_hostlink::Console;
use gantry_qemu::{connect_socket, machine::SocketsDir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::vm_files::{LOG_TAIL_BYTES, log_tail};

const SCROLLBACK_BYTES: usize = LOG_TAIL_BYTES as usize;
/// Pieces of output that a slow reader may fall behind; then it misses some.
const OUTPUT_BACKLOG: usize = 1024;
const INPUT_BACKLOG: usize = 64;
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// The way to a running VM's console.
#[derive(Clone)]
pub(crate) struct ConsoleLine {
    printed: Arc<Mutex<Printed>>,
    input: mpsc::Sender<Bytes>,
}

struct Printed {
    scrollback: VecDeque<u8>,
    output: broadcast::Sender<Bytes>,
}

impl ConsoleLine {
    pub fn open(&self) -> Console {
        let (to_reader, output) = mpsc::channel(OUTPUT_BACKLOG);
        // Both under one lock: no byte is missed and none comes twice.
        let (scrollback, mut new) = {
            let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            (printed.scrollback.iter().copied().collect::<Vec<u8>>(), printed.output.subscribe())
        };
        tokio::spawn(async move {
            if !scrollback.is_empty() && to_reader.send(scrollback.into()).await.is_err() {
                return;
            }
            loop {
                let piece = tokio::select! {
                    piece = new.recv() => piece,
                    () = to_reader.closed() => return,
                };
                match piece {
                    Ok(piece) => {
                        if to_reader.send(piece).await.is_err() {
                            return;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Console { output, input: self.input.clone() }
    }
}

/// Connects in the background; ends when the handle is dropped.
pub(super) fn start(sockets: &SocketsDir, log: &Path) -> (ConsoleLine, AbortOnDropHandle<()>) {
    let (input, typed) = mpsc::channel(INPUT_BACKLOG);
    let (output, _) = broadcast::channel(OUTPUT_BACKLOG);
    let scrollback = log_tail(log).unwrap_or_else(|error| {
        tracing::warn!(path = %log.display(), %error, "what was printed before can't be shown");
        Vec::new()
    });
    let scrollback = scrollback.into();
    let printed = Arc::new(Mutex::new(Printed { scrollback, output }));
    let line = ConsoleLine { printed: printed.clone(), input };
    let task = tokio::spawn(relay(sockets.console(), printed, typed));
    (line, AbortOnDropHandle::new(task))
}

async fn relay(path: PathBuf, printed: Arc<Mutex<Printed>>, mut typed: mpsc::Receiver<Bytes>) {
    loop {
        if let Ok(stream) = connect_socket(&path).await {
            let (mut reader, mut writer) = stream.into_split();
            let mut buffer = vec![0; 8 << 10];
            loop {
                tokio::select! {
                    read = reader.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => break,
                        Ok(count) => publish(&printed, &buffer[..count]),
                    },
                    bytes = typed.recv() => match bytes {
                        Some(bytes) => if writer.write_all(&bytes).await.is_err() { break },
                        None => return,
                    },
                }
            }
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

fn publish(printed: &Mutex<Printed>, piece: &[u8]) {
    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
    printed.scrollback.extend(piece);
    let excess = printed.scrollback.len().saturating_sub(SCROLLBACK_BYTES);
    printed.scrollback.drain(..excess);
    // Nobody reading is fine.
    drop(printed.output.send(Bytes::copy_from_slice(piece)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_late_reader_sees_the_log_and_both_readers_see_what_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = SocketsDir(directory.path().to_owned());
        let log = directory.path().join("console.log");
        std::fs::write(&log, b"booted\n").unwrap();
        let guest = UnixListener::bind(sockets.console()).unwrap();
        let (line, _task) = start(&sockets, &log);
        let (mut serial, _) = guest.accept().await.unwrap();

        let mut first = line.open();
        assert_eq!(first.output.recv().await.unwrap(), "booted\n");
        serial.write_all(b"login: ").await.unwrap();
        assert_eq!(first.output.recv().await.unwrap(), "login: ");
        let mut second = line.open();
        assert_eq!(second.output.recv().await.unwrap(), "booted\nlogin: ");

        first.input.send(Bytes::from_static(b"root\r")).await.unwrap();
        let mut typed = [0; 5];
        serial.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\r");
        serial.write_all(b"# ").await.unwrap();
        assert_eq!(first.output.recv().await.unwrap(), "# ");
        assert_eq!(second.output.recv().await.unwrap(), "# ");
    }

    #[test]
    fn the_scrollback_is_bounded() {
        let printed = Mutex::new(Printed { scrollback: VecDeque::new(), output: broadcast::channel(1).0 });
        for _ in 0..20 {
            publish(&printed, &[b'x'; 8 << 10]);
        }
        assert_eq!(printed.lock().unwrap().scrollback.len(), SCROLLBACK_BYTES);
    }
}
