//! Agents as they are run: separate processes in network namespaces, real QEMU, real guests, a controller that only
//! lets hosts join and hands out the image.
//!
//! Needs root, `ip`, `nft`, QEMU and the guest that `cargo xtask guest` makes.

mod disk_moves;
mod lease;
mod lifecycle;
mod migration;
mod probes;
mod protection;
mod reactions;
mod relocation;
mod resources;
mod restart;
mod screen;
mod shared_pool;
mod snapshots;
mod uefi;
mod world;

/// Not a test: the body of the agent processes that the others start and kill.
#[test]
fn agent_process() {
    let Some(state_dir) = std::env::var_os(world::AGENT_STATE_DIR) else { return };
    tracing_subscriber::fmt().with_env_filter("info").with_ansi(false).with_writer(std::io::stderr).init();
    let mut config = gantry_agent::AgentConfig::load(state_dir.as_ref()).expect("configuration");
    let program = std::env::current_exe().expect("this program").into_os_string();
    config.warden =
        Some([program].into_iter().chain(["--exact", "warden_process", "--nocapture"].map(Into::into)).collect());
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(gantry_agent::run(config, Default::default())).expect("agent");
}

/// Not a test: the body of the wardens that the agents start.
#[test]
fn warden_process() {
    let Some(state_dir) = std::env::var_os(world::AGENT_STATE_DIR) else { return };
    gantry_agent::run_warden(state_dir.as_ref()).expect("warden");
}
