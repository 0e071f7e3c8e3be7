//! Logging in, being somebody, logging out.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use gantry_api::access::{Login, SESSION_COOKIE, SessionInfo, SessionUser};
use gantry_hostlink::Refusal;
use gantry_types::{Problem, Resource};

use super::{
    Front, Shared,
    audit::Who,
    caller::{Credential, From, Shown, User},
    csrf,
    request::{Answer, Body},
};
use crate::app::user::{LoginRefused, log_in, throttled};

/// A login is small.
pub const MAX_LOGIN_BYTES: usize = 4096;

pub async fn open(State(front): State<Shared>, request: Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let who = Who::of(&parts);
    // Another site must not log somebody in here as somebody else.
    if csrf::has_origin(&parts) {
        csrf::same_origin(&parts)?;
    }
    let From(address) = From::from_request_parts(&mut parts, &front).await?;
    let Body(login) = Body::<Login>::from_request(Request::from_parts(parts, body), &front).await?;
    let tried: String = login.name.chars().filter(|c| !c.is_control()).take(64).collect();
    who.note_as(format!("user/{tried}"));
    match log_in(&front.app, &login, address).await {
        Ok((secret, session)) => {
            let user = crate::app::user::of_session(&front.app, &session)
                .ok_or_else(|| Problem::unauthenticated("the user was changed meanwhile").remedy("log in again"))?;
            let lifetime_s = front.app.config.sessions.lifetime.as_secs();
            let cookie = cookie(&secret.to_text(), lifetime_s)?;
            let info = info(&front, &Credential::Session(session, user));
            Ok(([(header::SET_COOKIE, cookie)], Json(info)).into_response())
        }
        Err(LoginRefused::Wrong) => Err(Problem::unauthenticated("there is no such user, or the password is wrong")
            .remedy("try again; an administrator sets a new password with: gantry user passwd NAME")
            .into()),
        Err(LoginRefused::Throttled(wait)) => {
            let mut response = Refusal(throttled(wait)).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            Ok(response)
        }
        Err(LoginRefused::Failed(problem)) => Err(problem.into()),
    }
}

pub async fn show(State(front): State<Shared>, Shown(credential): Shown) -> Answer<SessionInfo> {
    Ok(Json(info(&front, &credential)))
}

pub async fn close(
    State(front): State<Shared>,
    User(caller): User,
    Shown(credential): Shown,
) -> Result<Response, Refusal> {
    let Credential::Session(session, _) = credential else {
        let detail = format!("{} has no session that could be ended", caller.name);
        return Err(Problem::denied("no-session", detail).remedy("delete the token: gantry token delete NAME").into());
    };
    front.app.access.sessions.close(&session);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie("", 0)?)]).into_response())
}

fn cookie(value: &str, lifetime_s: u64) -> Result<HeaderValue, Problem> {
    let text = format!("{SESSION_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={lifetime_s}");
    HeaderValue::try_from(text).map_err(|error| Problem::permanent("cookie", error.to_string()))
}

fn info(front: &Front, credential: &Credential) -> SessionInfo {
    let version = front.version();
    let (sessions, clock) = (&front.app.access.sessions, &*front.app.clock);
    let caller = credential.caller();
    let (user, csrf_token, expires_at, idle_expires_at) = match credential {
        Credential::Token(token) => {
            let user = SessionUser {
                name: caller.name.clone(),
                display_name: None,
                role: caller.role,
                consoles: caller.has_consoles(),
            };
            (user, None, token.spec.expires_at, None)
        }
        Credential::Session(session, user) => {
            let shown = SessionUser {
                name: user.name().to_owned(),
                display_name: user.spec.display_name.clone(),
                role: caller.role,
                consoles: caller.has_consoles(),
            };
            let idle = sessions.idle_expires_at(session, clock);
            (shown, Some(session.csrf_token.clone()), Some(session.expires_at), Some(idle))
        }
    };
    SessionInfo {
        user,
        csrf_token,
        expires_at,
        idle_expires_at,
        datacenter: version.datacenter,
        version: version.version,
    }
}
