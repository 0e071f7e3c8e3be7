//! `gantry token …`

use gantry_api::rest::CreateToken;
use gantry_types::{ApiToken, Timestamp};

use super::{Session, apply, objects};
use crate::{
    args::{FollowOptions, TokenCommand},
    exit::Failure,
    kind::Kind,
    output::{note, now},
};

pub async fn run(session: &Session, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { name, role, expires } => {
            let expires_at = expires.map(|span| {
                let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_ms(now().unix_ms().saturating_add(span_ms))
            });
            let request = CreateToken { name, role: role.into(), expires_at };
            let created = session.client()?.create_token(&request).await?;
            // The secret alone on stdout: TOKEN=$(gantry token create ci --role viewer)
            session.printer.value(&created, || format!("{}\n", created.token))?;
            note("this is the only time the token is shown");
            Ok(())
        }
        TokenCommand::List(options) => objects::list::<ApiToken>(session, &options, |_| true).await,
        TokenCommand::Delete { names } => {
            apply::delete_named(session, Kind::Token, &names, FollowOptions::default()).await
        }
    }
}
