//! `gantry controller …` and `gantry agent …`

use crate::{
    Programs,
    args::{AgentCommand, ControllerCommand, ControllerInit},
    context::Contexts,
    exit::Failure,
    output::{note, print},
};

pub async fn controller(command: ControllerCommand, programs: &impl Programs) -> Result<(), Failure> {
    match command {
        ControllerCommand::Init(arguments) => init(&arguments, programs).await,
        ControllerCommand::Run(arguments) => Ok(programs.controller_run(arguments).await?),
    }
}

pub async fn agent(command: AgentCommand, programs: &impl Programs) -> Result<(), Failure> {
    match command {
        AgentCommand::Run(arguments) => Ok(programs.agent_run(arguments).await?),
        AgentCommand::Warden(arguments) => Ok(programs.agent_warden(&arguments)?),
    }
}

async fn init(arguments: &ControllerInit, programs: &impl Programs) -> Result<(), Failure> {
    // Read first: a damaged configuration must not cost the only copy of the admin token.
    let mut contexts = Contexts::load()?;
    let made = programs.controller_init(arguments).await?;
    let context = made.context;
    let (name, data) = (arguments.name.to_string(), arguments.data.display());
    let (url, token) = (context.url.clone(), context.token.clone());
    contexts.contexts.insert(name.clone(), context);
    contexts.current = Some(name.clone());
    if let Err(problem) = contexts.save() {
        note(&format!("the admin token, which is stored nowhere else: {token}"));
        note(&format!("the password of user '{}', which is stored nowhere else: {}", made.user, made.password));
        return Err(problem.into());
    }
    Ok(print(&format!(
        "controller '{name}' is made; its first administrator is the context '{name}', which is current now\n\
         web UI:      {url}/ as user '{}' with the password {}, which is shown only now\n\
         run it:      gantry controller run --data {data}\n\
         add a host:  gantry token create HOST --role join, then on the host: gantry host join {url} TOKEN\n",
        made.user, made.password
    ))?)
}
