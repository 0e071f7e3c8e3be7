//! `gantry operation …`

use gantry_types::Operation;

use super::{Session, announce, objects};
use crate::{
    args::OperationCommand,
    exit::Failure,
    follow::{figures_text, follow},
    output::print,
};

pub async fn run(session: &Session, command: OperationCommand) -> Result<(), Failure> {
    match command {
        OperationCommand::List(options) => objects::list::<Operation>(session, &options, |_| true).await,
        OperationCommand::Show { name } => objects::show_all::<Operation>(session, &name).await,
        OperationCommand::Cancel { name } => {
            let operation = session.client()?.cancel(&name).await?;
            Ok(announce(session.printer, &operation, "will stop at the next safe point")?)
        }
        OperationCommand::Wait { name } => {
            let client = session.client()?;
            let operation = client.get::<Operation>(&name).await?;
            let finished = follow(&client, &operation).await?;
            announce(session.printer, &finished, "succeeded")?;
            if let (Some(figures), false) = (&finished.status.figures, session.printer.is_structured()) {
                print(&figures_text(figures))?;
            }
            Ok(())
        }
    }
}
