//! VMs over HTTP.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{
    Changed, CloneRequest, DeleteVmQuery, HaExplanation, MigrateRequest, RebootRequest, RecoverRequest, StopRequest,
    VmExplanation, WriteQuery,
};
use gantry_hostlink::Refusal;
use gantry_types::{Problem, Vm};

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, OptionalBody, Path, QueryOf},
};
use crate::app::{explain, ha_explain, vm, vm_clone};

type Outcome = Result<Response, Refusal>;

/// 202 if an operation carries it out, 200 if it is done.
fn told(changed: Result<Changed<Vm>, Problem>) -> Outcome {
    let changed = changed?;
    let status = if changed.operation.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(changed)).into_response())
}

pub async fn create(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Vm>,
) -> Outcome {
    let changed = vm::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Vm>,
) -> Outcome {
    told(vm::put(&front.app, &caller, &name, sent, &query).await)
}

pub async fn delete(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<DeleteVmQuery>,
) -> Outcome {
    let write = WriteQuery { dry_run: query.dry_run, revision: query.revision };
    told(vm::delete(&front.app, &caller, &name, query.force, &write).await)
}

pub async fn explain(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
) -> Answer<VmExplanation> {
    Ok(Json(explain::vm(&front.app, &caller, &name)?))
}

pub async fn explain_ha(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
) -> Answer<HaExplanation> {
    Ok(Json(ha_explain::vm(&front.app, &caller, &name)?))
}

pub async fn start(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    told(vm::start(&front.app, &caller, &name, &query).await)
}

pub async fn stop(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<StopRequest>,
) -> Outcome {
    told(vm::stop(&front.app, &caller, &name, request, &query).await)
}

pub async fn reboot(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<RebootRequest>,
) -> Outcome {
    told(vm::reboot(&front.app, &caller, &name, request, &query).await)
}

pub async fn pause(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    told(vm::pause(&front.app, &caller, &name, &query).await)
}

pub async fn resume(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    told(vm::resume(&front.app, &caller, &name, &query).await)
}

pub async fn recover(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<RecoverRequest>,
) -> Outcome {
    told(vm::recover(&front.app, &caller, &name, &request, &query).await)
}

pub async fn migrate(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<MigrateRequest>,
) -> Outcome {
    told(vm::migrate(&front.app, &caller, &name, &request, &query).await)
}

pub async fn clone(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<CloneRequest>,
) -> Outcome {
    told(vm_clone::clone(&front.app, &caller, &name, &request, &query).await)
}
