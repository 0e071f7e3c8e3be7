//! `gantry user …`

use std::path::Path;

use gantry_api::access::{CreateUser, SetPassword};
use gantry_types::{Problem, User};

use super::{Session, announce, apply, objects};
use crate::{
    args::{FollowOptions, UserCommand},
    exit::Failure,
    kind::Kind,
    output::note,
};

pub async fn run(session: &Session, command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Create { name, role, display_name, consoles, password_file } => {
            let password = password_file.as_deref().map(read_password).transpose()?;
            let request = CreateUser { name, display_name, role: role.into(), consoles, password };
            let created = session.client()?.create_user(&request).await?;
            match &created.password {
                // The password alone on stdout: PASSWORD=$(gantry user create ann --role viewer)
                Some(password) => {
                    session.printer.value(&created, || format!("{password}\n"))?;
                    note("this is the only time the password is shown");
                    Ok(())
                }
                None => Ok(announce(session.printer, &created.object, "created")?),
            }
        }
        UserCommand::List(options) => objects::list::<User>(session, &options, |_| true).await,
        UserCommand::Show { name } => objects::show_all::<User>(session, &name).await,
        UserCommand::Set { name, role, display_name, consoles, disabled } => {
            let (changed, _) = session
                .client()?
                .change::<User>(&name, |user| {
                    user.spec.role = role.map_or(user.spec.role, Into::into);
                    user.spec.display_name = display_name.clone().or(user.spec.display_name.take());
                    user.spec.consoles = consoles.or(user.spec.consoles);
                    user.spec.disabled = disabled.unwrap_or(user.spec.disabled);
                    Ok(())
                })
                .await?;
            Ok(announce(session.printer, &changed.object, "changed")?)
        }
        UserCommand::Passwd { name, password_file } => {
            let password = password_file.as_deref().map(read_password).transpose()?;
            let request = SetPassword { password, current_password: None };
            let set = session.client()?.set_password(&name, &request).await?;
            match &set.password {
                Some(password) => {
                    session.printer.value(&set, || format!("{password}\n"))?;
                    note("this is the only time the password is shown");
                }
                None => session.printer.value(&set, || format!("the password of user '{name}' is set\n"))?,
            }
            Ok(())
        }
        UserCommand::Delete { names } => {
            apply::delete_named(session, Kind::User, &names, FollowOptions::default()).await
        }
    }
}

fn read_password(path: &Path) -> Result<String, Problem> {
    read_secret("the password", path)
}

/// What is in a file, or comes by standard input (`-`). Its last line end is not a part of it.
pub(super) fn read_secret(what: &str, path: &Path) -> Result<String, Problem> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|error| {
        Problem::invalid("unreadable-file", format!("{what} can't be read from {}: {error}", path.display()))
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
