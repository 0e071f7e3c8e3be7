//! What each command does: one file per family. Everything shared by the families is here.

mod alarms;
mod apply;
mod backups;
mod clusters;
mod contexts;
mod energy;
mod ha;
mod hosts;
mod images;
mod load_balancers;
mod moves;
mod networking;
mod networks;
mod objects;
mod operations;
mod policies;
mod programs;
mod repositories;
mod resource_pools;
mod routing;
mod simulate;
mod snapshots;
mod storage;
mod tokens;
mod users;
mod vms;
mod volume_files;
mod whole;

pub use images::upload;

use clap::CommandFactory;
use gantry_api::rest::Changed;
use gantry_types::{Labels, Operation, Problem, Resource};

use crate::{
    Programs,
    args::{Cli, Command, FollowOptions},
    client::Client,
    context::Contexts,
    exit::Failure,
    follow::follow,
    lab,
    output::{Printer, note, print},
};

/// What every command needs to know of the global flags.
pub struct Session {
    pub(crate) context: Option<String>,
    pub printer: Printer,
}

impl Session {
    /// The client of the chosen controller.
    pub fn client(&self) -> Result<Client, Problem> {
        Contexts::load()?.client(self.context.as_deref())
    }
}

pub async fn dispatch(cli: Cli, programs: &impl Programs) -> Result<(), Failure> {
    let session = Session { context: cli.context, printer: Printer { format: cli.output } };
    match cli.command {
        Command::Get(get) => objects::get(&session, &get).await,
        Command::Describe { kind, name } => objects::describe(&session, kind, &name).await,
        Command::Apply(arguments) => apply::apply(&session, &arguments).await,
        Command::Diff { files } => apply::diff(&session, &files).await,
        Command::Delete(arguments) => apply::delete(&session, &arguments).await,
        Command::Wait(arguments) => objects::wait(&session, &arguments).await,
        Command::Vm(command) => vms::run(&session, command).await,
        Command::Ha(command) => ha::run(&session, command).await,
        Command::Alarm(command) => alarms::alarms(&session, command).await,
        Command::Receiver(command) => alarms::receivers(&session, command).await,
        Command::Image(command) => images::run(&session, command).await,
        Command::Network(command) => networks::run(&session, command).await,
        Command::Subnet(command) => networking::subnets(&session, command).await,
        Command::Port(command) => networking::ports(&session, command).await,
        Command::SecurityGroup(command) => networking::security_groups(&session, command).await,
        Command::Router(command) => routing::routers(&session, command).await,
        Command::FloatingIp(command) => routing::floating_ips(&session, command).await,
        Command::LoadBalancer(command) => load_balancers::run(&session, command).await,
        Command::AddressSet(command) => networking::address_sets(&session, command).await,
        Command::Snapshot(command) => snapshots::run(&session, command).await,
        Command::Backup(command) => backups::run(&session, command).await,
        Command::Repository(command) => repositories::run(&session, command).await,
        Command::Pool(command) => storage::pools(&session, command).await,
        Command::Volume(command) => storage::volumes(&session, command).await,
        Command::Host(command) => hosts::run(&session, command, programs).await,
        Command::Cluster(command) => clusters::run(&session, command).await,
        Command::Policy(command) => policies::run(&session, command).await,
        Command::ResourcePool(command) => resource_pools::run(&session, command).await,
        Command::Operation(command) => operations::run(&session, command).await,
        Command::Event(command) => objects::events(&session, command).await,
        Command::Token(command) => tokens::run(&session, command).await,
        Command::User(command) => users::run(&session, command).await,
        Command::Overview(arguments) => whole::overview(&session, arguments).await,
        Command::Energy(command) => energy::run(&session, command).await,
        Command::Search(arguments) => whole::search(&session, arguments).await,
        Command::Audit(command) => whole::audit(&session, command).await,
        Command::Context(command) => contexts::run(&session, command),
        Command::Simulate(command) => simulate::run(&session, command).await,
        Command::Lab(command) => lab::run(&session, command).await,
        Command::Controller(command) => programs::controller(command, programs).await,
        Command::Agent(command) => programs::agent(command, programs).await,
        Command::Openapi => Ok(print(&programs.openapi()?)?),
        Command::Completion { shell } => Ok(print(&completion(shell))?),
        Command::Version => version(&session).await,
    }
}

fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gantry", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

async fn version(session: &Session) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let controller = match session.client() {
        Ok(client) => Some(client.version().await),
        // Without a controller there is only one version to tell.
        Err(_) => None,
    };
    let (known, problem) = match controller {
        Some(Ok(version)) => (Some(version), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let text = || {
        let controller = known.as_ref().map_or_else(String::new, |version| {
            format!("controller {} (datacenter {})\n", version.version, version.datacenter)
        });
        format!("gantry     {own}\n{controller}")
    };
    session.printer.value(&serde_json::json!({ "client": own, "controller": known }), text)?;
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

/// Says what was done with an object, as kubectl does: `vm/web created`.
pub fn announce(printer: Printer, object: &impl Resource, done: &str) -> Result<(), Problem> {
    fn line<T: Resource>(object: &T, done: &str) -> String {
        format!("{}/{} {done}\n", T::KIND, object.name())
    }
    match printer.format {
        crate::args::Format::Json => print(&crate::output::json(object)?),
        crate::args::Format::Yaml => print(&crate::output::yaml(object)?),
        crate::args::Format::Name => print(&line(object, "").replace(" \n", "\n")),
        _ => print(&line(object, done)),
    }
}

/// With the labels that are given, without those that are given no value.
fn relabel(labels: &mut Labels, given: &[(String, Option<String>)]) {
    for (key, value) in given {
        match value {
            Some(value) => labels.0.insert(key.clone(), value.clone()),
            None => labels.0.remove(key),
        };
    }
}

/// Follows the operation that a change started, unless the user does not want to wait.
pub async fn carry_out<T>(
    client: &Client,
    changed: &Changed<T>,
    options: FollowOptions,
) -> Result<Option<Operation>, Failure> {
    let Some(operation) = &changed.operation else { return Ok(None) };
    if options.no_wait {
        note(&format!("operation {} is at work; follow it: gantry operation wait {0}", operation.name()));
        return Ok(None);
    }
    follow(client, operation).await.map(Some)
}

/// The result of several independent pieces of work: each failure but a single one has been reported when it happened.
#[derive(Default)]
pub struct Failures {
    first: Option<Failure>,
    count: usize,
}

impl Failures {
    pub fn add(&mut self, failure: Failure) {
        self.count += 1;
        eprint_failure(&failure);
        self.first.get_or_insert(failure);
    }

    pub fn result(self) -> Result<(), Failure> {
        match self.first {
            None => Ok(()),
            Some(first) if self.count == 1 => Err(Failure::Silent(first.exit_code())),
            Some(first) => Err(Failure::Several { first: Box::new(first), count: self.count }),
        }
    }
}

fn eprint_failure(failure: &Failure) {
    note(failure.report().trim_end());
}
