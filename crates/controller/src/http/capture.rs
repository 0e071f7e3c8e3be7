//! What passes a port, as a pcap file, passed on from its host's agent. Starting one is an event.

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use gantry_api::rest::CaptureQuery;
use gantry_hostlink::Refusal;
use gantry_types::{Host, Port, Problem, Resource, Severity, Vm};
use uuid::Uuid;

use super::{
    Shared,
    caller::User,
    request::{Path, QueryOf},
};
use crate::{app::App, objects::Change};

pub async fn open(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<CaptureQuery>,
) -> Result<Response, Refusal> {
    // It shows what a guest says, passwords too.
    caller.may_change()?;
    check(query)?;
    let (vm, port) = of_name(&front.app, &name)?;
    let host = vm.status.host.as_ref().and_then(|host| front.app.model.get::<Host>(host.as_str()));
    let host = host.ok_or_else(|| {
        Problem::conflict("vm-without-host", format!("VM '{}' is on no host, so nothing passes its ports", vm.name()))
            .object(vm.reference())
            .remedy(format!("start it: gantry vm start {}", vm.name()))
    })?;
    let captured = front.agents.client(&host).capture(port, &query).await?;
    let message = format!("{} captures what passes port {port} of VM '{}'", caller.name, vm.name());
    let mut record = Change::new();
    record.event(&front.app.event(vm.reference(), Severity::Normal, "CaptureStarted", message))?;
    front.app.objects.commit(record).await?;
    let kind = [(header::CONTENT_TYPE, "application/vnd.tcpdump.pcap")];
    Ok((kind, Body::from_stream(captured.bytes_stream())).into_response())
}

fn check(query: CaptureQuery) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-query", "the query is not valid");
    if !(1..=3600).contains(&query.seconds) {
        problem = problem.field("seconds", format!("{} is out of range, use 1 to 3600", query.seconds));
    }
    if !(1 << 10..=1 << 30).contains(&query.max_bytes) {
        problem = problem.field("max_bytes", format!("{} is out of range, use 1024 to 1073741824", query.max_bytes));
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

/// A VM's first port, or a port by its own name.
fn of_name(app: &App, name: &str) -> Result<(Vm, Uuid), Problem> {
    if let Some(vm) = app.model.get::<Vm>(name) {
        let first = vm.status.nics.first().map(|nic| nic.port);
        let first = first.ok_or_else(|| {
            Problem::conflict("no-ports", format!("VM '{name}' has no ports yet"))
                .object(vm.reference())
                .remedy(format!("start it once: gantry vm start {name}"))
        })?;
        return Ok((Vm::clone(&vm), first));
    }
    let port = app.model.get::<Port>(name).ok_or_else(|| Problem::not_found(Port::KIND, name))?;
    let vm = port.status.vm.as_ref().and_then(|vm| app.model.get::<Vm>(vm.as_str()));
    let vm = vm.ok_or_else(|| {
        Problem::conflict("no-vm", format!("port '{name}' is no VM's, so nothing passes it"))
            .object(port.reference())
            .remedy("name it in a VM's spec.nics")
    })?;
    Ok((Vm::clone(&vm), port.metadata.uuid))
}
