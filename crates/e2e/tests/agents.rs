//! Real agents pass the suite that the host in memory passes: they are what the controller's own tests assume.

use anyhow::{Context, Result, anyhow};
use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, DiskAssignment};
use gantry_api::storage::PoolAssignment;
use gantry_e2e::Lab;
use gantry_hostlink::{AgentClient, conformance};
use gantry_trust::{Identity, LiveIdentity};
use gantry_types::{Arch, ByteSize, Display, Firmware, Host, PoolType, PowerState};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_is_what_the_trait_promises() -> Result<()> {
    let lab = Lab::up(1).await?;
    let identity = Identity::load(&lab.room().controller_directory().join("identity"))?;
    let host: Host = lab.client().get("host-1").await?;
    // The controller would clear away VMs it does not know.
    lab.crash_controller()?;
    let agent = AgentClient::new(&LiveIdentity::new(identity)?, &host.metadata.name, &host.status.agent_address)?;
    agent.observe().await.context("the agent does not answer the controller's identity")?;
    let template = Assignment {
        uuid: uuid::Uuid::nil(),
        name: "conformance".parse()?,
        epoch: 1,
        arch: Arch::X86_64,
        cpus: 1,
        memory: ByteSize::mib(64),
        cpu_model: None,
        firmware: Firmware::Bios,
        display: Display::None,
        disk: DiskAssignment { image: None, size: ByteSize::mib(4), pool: None },
        volumes: Vec::new(),
        nics: Vec::new(),
        user_data: None,
        power: PowerState::Stopped,
        ha: Default::default(),
        probes: Vec::new(),
        recovery: gantry_types::RecoveryPolicy::default(),
        resources: Default::default(),
    };
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let pool = PoolAssignment {
        uuid: uuid::Uuid::now_v7(),
        name: "fast".parse()?,
        kind: PoolType::Dir,
        path: place.path().join("fast").to_str().context("its path is text")?.to_owned(),
        export: None,
    };
    let repository = place.path().join("backup");
    let repository = repository.to_str().context("its path is text")?;
    conformance::run(&agent, &template, &pool, repository).await.map_err(|why| anyhow!(why))?;
    lab.passed();
    Ok(())
}
