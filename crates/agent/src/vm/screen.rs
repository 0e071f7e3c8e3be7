//! A VM's screen: QEMU's VNC server (RFC 6143) on a socket in the VM's own directory, which no network reaches.
//!
//! Each viewer has a connection of its own; QEMU lets several look on and type. It speaks without a password, so whoever
//! gets here must have been let in by the controller.

use std::path::Path;

use bytes::Bytes;
use gantry_hostlink::Console;
use gantry_qemu::connect_socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Pieces under way to a viewer; when they are full QEMU waits, and sends fewer pictures.
const BACKLOG: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// Connects a viewer. It ends when either side does.
pub(crate) async fn open(socket: &Path) -> std::io::Result<Console> {
    let (mut reader, mut writer) = connect_socket(socket).await?.into_split();
    let (to_viewer, output) = mpsc::channel::<Bytes>(BACKLOG);
    let (input, mut from_viewer) = mpsc::channel::<Bytes>(BACKLOG);
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let read = tokio::select! {
                read = reader.read(&mut buffer) => read,
                () = to_viewer.closed() => return,
            };
            let Ok(count @ 1..) = read else { return };
            if to_viewer.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(bytes) = from_viewer.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(Console { output, input })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn each_viewer_has_its_own_connection_and_both_ends_end_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vnc.sock");
        let qemu = UnixListener::bind(&path).unwrap();
        let (mut one, mut two) = (open(&path).await.unwrap(), open(&path).await.unwrap());
        let (mut at_one, _) = qemu.accept().await.unwrap();
        let (mut at_two, _) = qemu.accept().await.unwrap();
        at_one.write_all(b"one").await.unwrap();
        at_two.write_all(b"two").await.unwrap();
        assert_eq!(one.output.recv().await.unwrap(), "one");
        assert_eq!(two.output.recv().await.unwrap(), "two");
        one.input.send(Bytes::from_static(b"key")).await.unwrap();
        let mut typed = [0; 3];
        at_one.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"key");
        drop(at_one);
        assert_eq!(one.output.recv().await, None, "QEMU ended it");
        drop(two);
        assert_eq!(at_two.read(&mut typed).await.unwrap(), 0, "the viewer ended it");
    }
}
