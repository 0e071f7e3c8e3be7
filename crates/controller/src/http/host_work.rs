//! Work on whole hosts over HTTP: 202 if an operation does it, 200 if there is nothing to do.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, FenceRequest, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::{Host, Problem};

use super::{
    Shared,
    caller::User,
    request::{Body, Path, QueryOf},
};
use crate::app::{fence as fencing, host_work};

type Outcome = Result<Response, Refusal>;

fn told(changed: Result<Changed<Host>, Problem>) -> Outcome {
    let changed = changed?;
    let status = if changed.operation.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(changed)).into_response())
}

macro_rules! verbs {
    ($($verb:ident),*) => {
        $(pub async fn $verb(
            State(front): State<Shared>,
            User(caller): User,
            Path(name): Path<String>,
            QueryOf(query): QueryOf<WriteQuery>,
        ) -> Outcome {
            told(host_work::$verb(&front.app, &caller, &name, &query).await)
        })*
    };
}
verbs!(drain, undrain, sleep, wake, reboot);

pub async fn fence(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<FenceRequest>,
) -> Outcome {
    told(fencing::fence(&front.app, &caller, &name, request, &query).await)
}
