//! `gantry vm …`

use std::{collections::BTreeMap, future::Future, time::Duration};

use gantry_api::rest::{Changed, CloneRequest, DeleteVmQuery, RebootRequest, RecoverRequest, StopRequest, WriteQuery};
use gantry_types::{Labels, PowerState, Problem, Vm, VmSpec};

use super::{Failures, Session, announce, carry_out, moves, objects, relabel, snapshots::object_name};
use crate::{
    args::{FollowOptions, VmClone, VmCommand, VmCreate, VmSet},
    client::Client,
    console,
    exit::Failure,
    output::{explanation_text, note},
    screen,
    wait::{Condition, wait_for},
};

pub async fn run(session: &Session, command: VmCommand) -> Result<(), Failure> {
    match command {
        VmCommand::Create(arguments) => create(session, *arguments).await,
        VmCommand::List(options) => objects::list::<Vm>(session, &options, |_| true).await,
        VmCommand::Show { name } => objects::show_all::<Vm>(session, &name).await,
        VmCommand::Explain { name } => explain(session, &name).await,
        VmCommand::Start { names, wait, timeout, follow } => {
            let guest = wait.guest(timeout);
            let start = async |client: &Client, name| client.start(name).await;
            for_each_until(session, &names, follow, guest, "started", start).await
        }
        VmCommand::Stop { names, force, grace, follow } => {
            let request = StopRequest { grace_s: grace, force };
            for_each(session, &names, follow, "stopped", async |client, name| client.stop(name, &request).await).await
        }
        VmCommand::Reboot { names, force, follow } => {
            let request = RebootRequest { force };
            for_each(session, &names, follow, "rebooted", async |client, name| client.reboot(name, &request).await)
                .await
        }
        VmCommand::Pause { names, follow } => {
            for_each(session, &names, follow, "paused", async |client, name| client.pause(name).await).await
        }
        VmCommand::Resume { names, follow } => {
            for_each(session, &names, follow, "resumed", async |client, name| client.resume(name).await).await
        }
        VmCommand::Delete { names, force, follow } => {
            let query = DeleteVmQuery { force, ..DeleteVmQuery::default() };
            for_each(session, &names, follow, "deleted", async |client, name| client.delete_vm(name, &query).await)
                .await
        }
        VmCommand::Vnc { name, listen } => screen::serve(&session.client()?, &name, listen).await,
        VmCommand::Console { name } => console::attach(&session.client()?, &name).await,
        VmCommand::Set(arguments) => set(session, *arguments).await,
        VmCommand::Migrate(arguments) => moves::migrate(session, arguments).await,
        VmCommand::Clone(arguments) => clone(session, arguments).await,
        VmCommand::Recover(arguments) => {
            let (request, names) = (RecoverRequest { to: arguments.to, undo: arguments.undo }, [arguments.name]);
            let recover = async |client: &Client, name| client.recover(name, &request).await;
            for_each(session, &names, arguments.follow, "recovered", recover).await
        }
    }
}

async fn explain(session: &Session, name: &str) -> Result<(), Failure> {
    let explanation = session.client()?.explain(name).await?;
    Ok(session.printer.value(&explanation, || explanation_text(&explanation))?)
}

/// Starts a verb on each VM, then follows all the operations. One failure does not keep the others from going on.
async fn for_each<'a>(
    session: &Session,
    names: &'a [String],
    options: FollowOptions,
    done: &str,
    verb: impl AsyncFn(&Client, &'a str) -> Result<Changed<Vm>, Problem>,
) -> Result<(), Failure> {
    for_each_until(session, names, options, None, done, verb).await
}

/// The same; with `guest` each also has to answer within that time.
async fn for_each_until<'a>(
    session: &Session,
    names: &'a [String],
    options: FollowOptions,
    guest: Option<Duration>,
    done: &str,
    verb: impl AsyncFn(&Client, &'a str) -> Result<Changed<Vm>, Problem>,
) -> Result<(), Failure> {
    let client = session.client()?;
    let mut failures = Failures::default();
    let mut begun = Vec::new();
    for name in names {
        match verb(&client, name).await {
            Ok(changed) => begun.push(changed),
            Err(problem) => failures.add(problem.into()),
        }
    }
    for changed in &begun {
        match finish(&client, changed, options, guest).await {
            Ok(()) if options.no_wait => {}
            Ok(()) => announce(session.printer, &latest(&client, &changed.object).await, done)?,
            // Whoever interrupts does not want the next one to be followed.
            Err(interrupted @ Failure::Interrupted(_)) => return Err(interrupted),
            Err(failure) => failures.add(failure),
        }
    }
    failures.result()
}

/// The VM after its operation, for structured output; the older one if it is gone or can't be asked for.
pub(super) async fn latest(client: &Client, vm: &Vm) -> Vm {
    client.get::<Vm>(vm.metadata.name.as_str()).await.unwrap_or_else(|_| vm.clone())
}

async fn create(session: &Session, arguments: VmCreate) -> Result<(), Failure> {
    let client = session.client()?;
    let vm = vm_of(&arguments)?;
    let write = WriteQuery { dry_run: arguments.dry_run, revision: None };
    let changed = client.create(&vm, &write).await?;
    if arguments.dry_run {
        return Ok(announce(session.printer, &changed.object, "created (dry run)")?);
    }
    finish(&client, &changed, arguments.follow, arguments.wait.guest(arguments.timeout)).await?;
    Ok(announce(session.printer, &latest(&client, &changed.object).await, "created")?)
}

async fn clone(session: &Session, arguments: VmClone) -> Result<(), Failure> {
    let client = session.client()?;
    let write = WriteQuery { dry_run: arguments.dry_run, revision: None };
    let snapshot = match &arguments.snapshot {
        Some(snapshot) => Some(object_name(&arguments.source, snapshot)?),
        None => None,
    };
    let request = CloneRequest { name: arguments.name, stopped: arguments.stopped, host: arguments.host, snapshot };
    let changed = client.clone_vm(&arguments.source, &request, &write).await?;
    if arguments.dry_run {
        return Ok(announce(session.printer, &changed.object, "cloned (dry run)")?);
    }
    finish(&client, &changed, arguments.follow, arguments.wait.guest(arguments.timeout)).await?;
    let done = format!("cloned from vm/{}", arguments.source);
    Ok(announce(session.printer, &latest(&client, &changed.object).await, &done)?)
}

/// Follows the operation, then waits for the guest if that is asked for.
async fn finish(
    client: &Client,
    changed: &Changed<Vm>,
    options: FollowOptions,
    guest: Option<Duration>,
) -> Result<(), Failure> {
    carry_out(client, changed, options).await?;
    let Some(limit) = guest else { return Ok(()) };
    let name = changed.object.metadata.name.as_str();
    note_waiting(name);
    interruptible(wait_for::<Vm>(client, name, &Condition::Ready, limit), name).await
}

fn note_waiting(name: &str) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        note(&format!("vm/{name} runs; waiting for its guest to answer"));
    }
}

async fn interruptible(waiting: impl Future<Output = Result<(), Problem>>, name: &str) -> Result<(), Failure> {
    tokio::select! {
        result = waiting => Ok(result?),
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted(format!("vm/{name} goes on starting"))),
    }
}

fn vm_of(arguments: &VmCreate) -> Result<Vm, Problem> {
    let user_data = match &arguments.user_data {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
            Problem::invalid("unreadable-file", format!("user-data '{}' could not be read: {error}", path.display()))
                .remedy("check the path; user-data is a text file")
        })?),
    };
    let spec = VmSpec {
        image: arguments.image.clone(),
        disk: arguments.disk,
        pool: arguments.pool.clone(),
        nics: arguments.networks.clone(),
        arch: arguments.arch,
        cpu_model: arguments.cpu_model.clone(),
        firmware: arguments.firmware,
        user_data,
        power: if arguments.stopped { PowerState::Stopped } else { PowerState::Running },
        host: arguments.host.clone(),
        display: arguments.display,
        owner: arguments.owner.clone(),
        ..VmSpec::new(arguments.cpus, arguments.memory)
    };
    let mut vm = Vm::new(arguments.name.clone(), spec);
    vm.metadata.labels = Labels(arguments.labels.iter().cloned().collect::<BTreeMap<_, _>>());
    Ok(vm)
}

async fn set(session: &Session, arguments: VmSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (changed, _) = client
        .change::<Vm>(&arguments.name, |vm| {
            lay_over(vm, &arguments);
            Ok(())
        })
        .await?;
    carry_out(&client, &changed, arguments.follow).await?;
    Ok(announce(session.printer, &changed.object, "changed")?)
}

/// What is given; the rest stays.
fn lay_over(vm: &mut Vm, arguments: &VmSet) {
    vm.spec.cpus = arguments.cpus.unwrap_or(vm.spec.cpus);
    vm.spec.memory = arguments.memory.unwrap_or(vm.spec.memory);
    vm.spec.display = arguments.display.unwrap_or(vm.spec.display);
    if arguments.owner.is_some() || arguments.no_owner {
        vm.spec.owner.clone_from(&arguments.owner);
    }
    arguments.part.lay_over(&mut vm.spec.resources);
    let ha = &mut vm.spec.ha;
    ha.policy = arguments.ha.map_or(ha.policy, Into::into);
    ha.priority = arguments.priority.map_or(ha.priority, Into::into);
    ha.restarts_per_hour = arguments.ha_restarts.unwrap_or(ha.restarts_per_hour);
    ha.hang_s = arguments.ha_hang.unwrap_or(ha.hang_s);
    ha.on_guest_failure = arguments.on_guest_failure.unwrap_or(ha.on_guest_failure);
    ha.on_application_failure = arguments.on_app_failure.unwrap_or(ha.on_application_failure);
    ha.on_pool_loss = arguments.on_pool_loss.unwrap_or(ha.on_pool_loss);
    ha.on_network_loss = arguments.on_network_loss.unwrap_or(ha.on_network_loss);
    ha.loss_s = arguments.ha_loss.unwrap_or(ha.loss_s);
    ha.roll_back_after = arguments.roll_back_after.map_or(ha.roll_back_after, |after| after.0);
    if arguments.no_dependencies || !arguments.depends_on.is_empty() {
        ha.depends_on.clone_from(&arguments.depends_on);
    }
    ha.watchdog = arguments.watchdog.unwrap_or(ha.watchdog);
    arguments.probes.lay_over(&mut vm.spec.probes);
    relabel(&mut vm.metadata.labels, &arguments.labels);
}
