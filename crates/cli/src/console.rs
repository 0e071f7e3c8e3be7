//! The serial console of a VM: this terminal, or pipes, joined to the controller's websocket.
//!
//! On a terminal every key goes to the guest except Ctrl-], which ends the session. The terminal is put back into its
//! former state however the session ends. With piped input the session ends when the input has ended and the guest
//! has been silent for a moment, or when the controller ends it.

use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use gantry_api::access::ConsoleKind;
use gantry_types::Problem;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::Client,
    exit::Failure,
    output::{note, print_bytes},
};

/// Ctrl-], as in telnet and virsh.
const DETACH_KEY: u8 = 0x1d;
/// After piped input has ended: how long the guest may be silent, and how long it may go on talking.
const SILENCE: Duration = Duration::from_millis(700);
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Joins the console of `vm` until it is detached or ends.
pub async fn attach(client: &Client, vm: &str) -> Result<(), Failure> {
    let socket = client.console(vm, ConsoleKind::Serial).await?;
    let interactive = io::stdin().is_terminal();
    if interactive {
        note(&format!("connected to the console of vm/{vm}; Ctrl-] ends the session"));
    }
    let raw = if interactive { Some(RawTerminal::enter()?) } else { None };
    let ended = relay(socket, interactive).await;
    drop(raw);
    if interactive {
        note(match &ended {
            Ok(End::Detached) => "\ndetached; the VM runs on",
            _ => "\nthe console was closed",
        });
    }
    ended.map(drop)
}

/// How a session ended, if not by an error.
enum End {
    Detached,
    InputEnded,
    Closed,
}

async fn relay(socket: gantry_trust::WebSocket, interactive: bool) -> Result<End, Failure> {
    let (mut to_guest, mut from_guest) = socket.split();
    let mut keys = read_input();
    let failed = |error: io::Error| Failure::Local(anyhow::Error::new(error).context("signals can't be received"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // Far away until the input has ended.
    let (mut input_open, mut silence_ends, mut drain_ends) = (true, Instant::now(), Instant::now());
    loop {
        tokio::select! {
            input = keys.recv(), if input_open => {
                let (bytes, detach) = match &input {
                    Some(bytes) if interactive => up_to_detach_key(bytes),
                    Some(bytes) => (bytes.as_slice(), false),
                    None => (&[][..], interactive),
                };
                if !bytes.is_empty() {
                    to_guest.send(Message::binary(bytes.to_vec())).await.map_err(|error| broken(&error))?;
                }
                if detach {
                    // The server notices the closed connection if this does not arrive.
                    let _ = to_guest.close().await;
                    return Ok(End::Detached);
                }
                if input.is_none() {
                    input_open = false;
                    (silence_ends, drain_ends) = (Instant::now() + SILENCE, Instant::now() + DRAIN_LIMIT);
                }
            }
            output = from_guest.next() => match output {
                Some(Ok(Message::Binary(bytes))) => {
                    print_bytes(&bytes)?;
                    silence_ends = Instant::now() + SILENCE;
                }
                Some(Ok(Message::Text(text))) => print_bytes(text.as_bytes())?,
                Some(Ok(Message::Close(_))) | None => return Ok(End::Closed),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(&error)),
            },
            () = sleep_until(silence_ends.min(drain_ends)), if !input_open => {
                let _ = to_guest.close().await;
                return Ok(End::InputEnded);
            }
            _ = terminate.recv() => return Err(Failure::Interrupted("terminated".to_owned())),
            _ = hangup.recv() => return Err(Failure::Interrupted("the terminal is gone".to_owned())),
        }
    }
}

pub fn broken(error: &dyn std::error::Error) -> Failure {
    Problem::transient("console-broken", format!("the console connection broke: {}", gantry_hostlink::causes(error)))
        .remedy("the VM is not touched by this; connect again")
        .into()
}

/// The bytes before the detach key, and whether it was there.
fn up_to_detach_key(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == DETACH_KEY) {
        Some(position) => (&bytes[..position], true),
        None => (bytes, false),
    }
}

/// Standard input from a thread of its own: a blocked read can't be cancelled, but it may be left behind.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// The terminal without line editing and signals; restored when dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| anyhow::Error::new(error).context("the terminal could not be made raw");
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detach_key_ends_the_session_wherever_it_stands() {
        assert_eq!(up_to_detach_key(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(up_to_detach_key(b"ls\x1drm"), (&b"ls"[..], true));
        assert_eq!(up_to_detach_key(b"\x1d"), (&b""[..], true));
        assert_eq!(up_to_detach_key(b""), (&b""[..], false));
        assert_eq!(up_to_detach_key(b"\x1b[A\x03"), (&b"\x1b[A\x03"[..], false), "arrows and Ctrl-C are the guest's");
    }
}
