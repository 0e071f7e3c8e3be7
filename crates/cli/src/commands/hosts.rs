//! `gantry host …`

use gantry_api::rest::WriteQuery;
use gantry_types::Host;

use super::{Session, announce, apply, objects};
use crate::{
    Programs,
    args::{FollowOptions, HostCommand},
    exit::Failure,
    kind::Kind,
    output::print,
};

pub async fn run(session: &Session, command: HostCommand, programs: &impl Programs) -> Result<(), Failure> {
    match command {
        HostCommand::Join(arguments) => {
            let state = arguments.state.clone();
            let name = programs.host_join(arguments).await?;
            let text = format!("host/{name} joined\nstart its agent: gantry agent run --state {}\n", state.display());
            Ok(print(&text)?)
        }
        HostCommand::List(options) => objects::list::<Host>(session, &options, |_| true).await,
        HostCommand::Show { name } => objects::show_all::<Host>(session, &name).await,
        HostCommand::Cordon { name } => cordon(session, &name, true).await,
        HostCommand::Uncordon { name } => cordon(session, &name, false).await,
        HostCommand::Delete { names } => {
            apply::delete_named(session, Kind::Host, &names, FollowOptions::default()).await
        }
    }
}

async fn cordon(session: &Session, name: &str, cordoned: bool) -> Result<(), Failure> {
    let client = session.client()?;
    let mut host = client.get::<Host>(name).await?;
    host.spec.cordoned = cordoned;
    let changed = client.update(&host, &WriteQuery::default()).await?;
    Ok(announce(session.printer, &changed.object, if cordoned { "cordoned" } else { "uncordoned" })?)
}
