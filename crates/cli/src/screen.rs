//! The screen of a VM: a VNC server on this machine whose connections go through the controller.
//!
//! Each viewer that connects gets a connection to the VM of its own. It ends with the viewer, or when the controller
//! ends it; a viewer that connects again gets a new one, also where the VM has moved to.

use std::net::SocketAddr;

use anyhow::Context as _;
use futures::{SinkExt, StreamExt};
use gantry_api::access::ConsoleKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::Client,
    exit::Failure,
    output::{note, print},
};

const PIECE_BYTES: usize = 64 << 10;

/// Serves the screen of `vm` at `listen` until interrupted.
pub async fn serve(client: &Client, vm: &str, listen: SocketAddr) -> Result<(), Failure> {
    // Whether it can be opened at all is better said before a viewer is started.
    drop(client.console(vm, ConsoleKind::Vnc).await?);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("{listen} can't be listened on"))?;
    let address = listener.local_addr().context("the viewer's address is not known")?;
    print(&format!("vncviewer {}::{}\n", address.ip(), address.port()))?;
    note("connect a viewer there; Ctrl-C ends it");
    loop {
        let (viewer, _) = listener.accept().await.context("no viewer could connect")?;
        let (client, vm) = (client.clone(), vm.to_owned());
        tokio::spawn(async move {
            if let Err(failure) = join(&client, &vm, viewer).await {
                note(failure.report().trim_end());
            }
        });
    }
}

async fn join(client: &Client, vm: &str, mut viewer: TcpStream) -> Result<(), Failure> {
    let mut socket = client.console(vm, ConsoleKind::Vnc).await?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        tokio::select! {
            read = viewer.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { break };
                let message = Message::binary(buffer[..count].to_vec());
                socket.send(message).await.map_err(|error| crate::console::broken(&error))?;
            }
            shown = socket.next() => match shown {
                Some(Ok(Message::Binary(bytes))) => {
                    if viewer.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(crate::console::broken(&error)),
            },
        }
    }
    // The server notices the lost connection if this does not arrive.
    drop(socket.close(None).await);
    Ok(())
}
