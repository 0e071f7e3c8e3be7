//! Processes that end with this one, however it ends.
//!
//! Linux sends the signal that a child asks for when the *thread* that made it ends. So one thread makes them all, and lasts as
//! long as this process.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    runtime: Handle,
    made: oneshot::Sender<io::Result<Child>>,
}

/// Starts a program that is killed when this process ends.
pub(crate) async fn spawn_bound(mut command: Command) -> io::Result<Child> {
    static MAKER: OnceLock<Sender<Order>> = OnceLock::new();
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Whoever ended before this was asked for has sent nothing.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec `prepare` only makes system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    let (made, child) = oneshot::channel();
    let order = Order { command, runtime: Handle::current(), made };
    MAKER.get_or_init(start_maker).send(order).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts programs has ended")
}

fn start_maker() -> Sender<Order> {
    let (orders, taken) = channel::<Order>();
    let work = move || {
        for Order { mut command, runtime, made } in taken {
            let _in_runtime = runtime.enter();
            // Whoever does not wait any more drops the child, which ends it.
            drop(made.send(command.spawn()));
        }
    };
    // Without it the channel is closed, which its users are told.
    drop(thread::Builder::new().name("bound-processes".to_owned()).spawn(work));
    orders
}
