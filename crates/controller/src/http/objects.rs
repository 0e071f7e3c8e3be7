//! Reading objects of any kind: one, a page, or a watch.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, ListQuery};
use gantry_hostlink::Refusal;

use super::{
    Shared,
    caller::{Shown, User},
    request::{Answer, Path, QueryOf},
    watch,
};
use crate::{app, model::Kind};

pub async fn get<T: Kind>(State(front): State<Shared>, User(caller): User, Path(name): Path<String>) -> Answer<T> {
    Ok(Json(app::get(&front.app, &caller, &name)?))
}

/// A page, or with `watch` a stream of changes.
pub async fn list<T: Kind>(
    State(front): State<Shared>,
    User(caller): User,
    Shown(shown): Shown,
    headers: HeaderMap,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Response, Refusal> {
    if query.watch {
        return watch::stream::<T>(front, &caller, shown, &headers, query);
    }
    Ok(Json(app::list::<T>(&front.app, &caller, &query)?).into_response())
}

/// A change that needed no operation.
pub fn changed<T>(object: T) -> Changed<T> {
    Changed { object, operation: None }
}
