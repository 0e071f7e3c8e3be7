//! The public API, declared: every route with its documentation.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::{from_fn_with_state, map_response},
    routing::{MethodRouter, delete, get, post, put},
};
use gantry_api::{
    access::{
        ConsoleKind, ConsoleQuery, ConsoleTicket, CreateUser, CreatedUser, Login, PasswordSet, SessionInfo,
        SetPassword, TicketRequest,
    },
    alarms::{AcknowledgeRequest, SilenceRequest},
    audit::{AuditPage, AuditQuery},
    backup::{BackupContent, RepositoryContent},
    energy::{EnergyQuery, EnergyReport},
    overview::{
        MetricsHistory, MetricsQuery, Overview, OverviewChange, OverviewHosts, OverviewHostsQuery, OverviewQuery,
        SearchQuery, SearchResult,
    },
    paths,
    rest::{
        AdoptBackupsQuery, AdoptedBackups, AttachRequest, BackupFilesQuery, CaptureQuery, Changed, CloneRequest,
        CreateToken, CreatedToken, DeleteBackupQuery, DeleteVmQuery, ExportQuery, FenceRequest, HaExplanation,
        JoinRequest, JoinResponse, ListQuery, MigrateRequest, MigrateVolumeRequest, Page, RebootRequest,
        RecoverRequest, RepositoryCheckQuery, RestoreBackupRequest, RevertRequest, StopRequest, Trace, TraceQuery,
        UpdateClusterRequest, UploadState, Version, VmExplanation, WatchEvent, WriteQuery,
    },
};
use gantry_types::{
    AddressSet, Alarm, ApiToken, Backup, Cluster, Event, FloatingIp, Host, Image, LoadBalancer, Network, NetworkSubnet,
    Notice, Operation, Policy, Pool, Port, Problem, Receiver, Repository, Resource, ResourcePool, SecurityGroup,
    Snapshot, User as StoredUser, Vm, Volume,
};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{HttpMethod, InfoBuilder, License, OpenApi},
};

use super::{
    Front, Shared, alarms, assets, audit, backups,
    caller::User,
    capture, console,
    endpoint::{Endpoint, Routes},
    host_work, hosts, images, managed, objects, overview, policies,
    request::{Answer, MAX_BODY_BYTES, no_such_method},
    session, snapshots, storage, upload_pieces, users, vms, volume_content, writes,
};
use crate::{app::managed::Managed, model::Kind};

const OPENAPI: &str = "/v1/openapi.json";
const VERSION: &str = "/v1/version";

/// The router of a controller.
pub fn router(front: Shared) -> Router {
    routes()
        .add_internal(paths::HEARTBEAT, post(hosts::heartbeat))
        .add_internal(paths::AGENT_FENCE, post(hosts::fence))
        .add_internal(paths::RENEW, post(hosts::renew))
        .add_internal(paths::AGENT_IMAGE, get(images::content))
        .router
        .fallback(assets::serve)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&front), audit::record))
        .layer(map_response(assets::guard))
        .with_state(front)
}

/// The OpenAPI 3.1 document of the public API.
pub fn openapi() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Gantry")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Objects are {kind, metadata, spec, status}. Lists take label selectors and page by `continue`; with \
             `watch=true` they answer with server-sent events. Changes take `dry_run`, and `revision` for optimistic \
             concurrency. Long work is an operation. Errors are problem details (RFC 9457).",
        ))
        .license(Some(License::new("Apache-2.0 OR MIT")))
        .build();
    routes().schema::<Problem>().schema::<WatchEvent<Vm>>().schema::<OverviewChange>().document(info)
}

fn routes() -> Routes {
    let mut routes = Routes::new();
    routes = readable::<Vm>(routes);
    routes = readable::<Host>(routes);
    routes = readable::<Cluster>(routes);
    routes = readable::<Policy>(routes);
    routes = readable::<Image>(routes);
    routes = readable::<Network>(routes);
    routes = readable::<Snapshot>(routes);
    routes = readable::<Backup>(routes);
    routes = readable::<Pool>(routes);
    routes = readable::<Volume>(routes);
    routes = readable::<Operation>(routes);
    routes = readable::<Event>(routes);
    routes = readable::<ApiToken>(routes);
    routes = readable::<StoredUser>(routes);
    routes = of_vms(routes);
    routes = of_hosts(routes);
    routes = of_policies(routes);
    routes = of_snapshots(routes);
    routes = of_backups(routes);
    routes = of_storage(routes);
    routes = of_the_rest(routes);
    routes = of_alarms(routes);
    routes = managed::<ResourcePool>(routes);
    routes = managed::<NetworkSubnet>(routes);
    routes = managed::<Port>(routes);
    routes = managed::<SecurityGroup>(routes);
    routes = managed::<AddressSet>(routes);
    routes = managed::<gantry_types::Router>(routes);
    routes = managed::<FloatingIp>(routes);
    routes = managed::<LoadBalancer>(routes);
    let summary = "Where a packet of this port (or VM) would go, and which rule allows or drops it";
    let trace = Endpoint::new(HttpMethod::Get, "/v1/ports/{name}/trace", Port::KIND, summary);
    routes = routes.add(trace.query::<TraceQuery>().answers::<Trace>(200), get(managed::trace));
    let summary = "What passes this port (or the first one of this VM) from now on, as a pcap file";
    let captured = Endpoint::new(HttpMethod::Get, "/v1/ports/{name}/capture", Port::KIND, summary);
    routes = routes.add(captured.query::<CaptureQuery>(), get(capture::open));
    routes = of_users(routes);
    routes = of_the_whole(routes);
    of_the_controller(routes)
}

fn of_vms(routes: Routes) -> Routes {
    let verb = |verb: &str, summary: &str| {
        let path = format!("/v1/vms/{{name}}/{verb}");
        Endpoint::new(HttpMethod::Post, path, Vm::KIND, summary).query::<WriteQuery>().answers::<Changed<Vm>>(202)
    };
    let explain = Endpoint::new(
        HttpMethod::Get,
        "/v1/vms/{name}/explain",
        Vm::KIND,
        "Why it is where it is, and why not elsewhere",
    );
    let ha = Endpoint::new(
        HttpMethod::Get,
        "/v1/vms/{name}/ha",
        Vm::KIND,
        "What protects it, and what would happen now if it or its host failed",
    );
    let console = |kind: ConsoleKind, summary: &str| {
        let path = format!("/v1/vms/{{name}}/{}", kind.path());
        Endpoint::new(HttpMethod::Get, path, Vm::KIND, summary).query::<ConsoleQuery>().status(101)
    };
    let serial = "Its serial console: a websocket (RFC 6455) with bytes both ways in binary messages";
    let screen = "Its screen: VNC (RFC 6143) in the binary messages of a websocket";
    let ticket = Endpoint::new(
        HttpMethod::Post,
        "/v1/vms/{name}/console-ticket",
        Vm::KIND,
        "A ticket that opens a console of it once, within 30 s; sessions need one",
    );
    written::<Vm, DeleteVmQuery>(routes, post(vms::create), put(vms::put), delete(vms::delete))
        .add(verb("start", "Start it"), post(vms::start))
        .add(verb("stop", "Shut it down (ACPI), by force after the grace time").body::<StopRequest>(), post(vms::stop))
        .add(verb("reboot", "Reboot it").body::<RebootRequest>(), post(vms::reboot))
        .add(verb("pause", "Stop its virtual processors"), post(vms::pause))
        .add(verb("resume", "Let its virtual processors go on"), post(vms::resume))
        .add(verb("migrate", "Move it to another host while it runs").body::<MigrateRequest>(), post(vms::migrate))
        .add(
            verb("clone", "Make a VM as a copy of it, with what its disk holds at this instant").body::<CloneRequest>(),
            post(vms::clone),
        )
        .add(
            verb("recover", "Bring its disk back to a state that is known to be good, and start it")
                .body::<RecoverRequest>(),
            post(vms::recover),
        )
        .add(explain.answers::<VmExplanation>(200), get(vms::explain))
        .add(ha.answers::<HaExplanation>(200), get(vms::explain_ha))
        .add(console(ConsoleKind::Serial, serial), get(console::open_serial))
        .add(console(ConsoleKind::Vnc, screen), get(console::open_screen))
        .add(ticket.body::<TicketRequest>().answers::<ConsoleTicket>(200), post(console::ticket))
}

fn of_hosts(routes: Routes) -> Routes {
    let verb = |verb: &str, summary: &str| {
        let path = format!("/v1/hosts/{{name}}/{verb}");
        Endpoint::new(HttpMethod::Post, path, Host::KIND, summary).query::<WriteQuery>().answers::<Changed<Host>>(202)
    };
    routes
        .add(verb("drain", "Move all VMs away and keep it empty"), post(host_work::drain))
        .add(
            verb("fence", "Shut it out, so that its protected VMs may start elsewhere")
                .status(200)
                .body::<FenceRequest>(),
            post(host_work::fence),
        )
        .add(verb("undrain", "Place VMs on it again").status(200), post(host_work::undrain))
        .add(verb("sleep", "Empty it and switch it off"), post(host_work::sleep))
        .add(verb("wake", "Switch it on and wait for its agent"), post(host_work::wake))
        .add(verb("reboot", "Empty it, switch it off and on, wait for its agent"), post(host_work::reboot))
}

fn of_alarms(routes: Routes) -> Routes {
    let verb = |verb: &str, summary: &str| {
        let path = format!("/v1/alarms/{{name}}/{verb}");
        Endpoint::new(HttpMethod::Post, path, Alarm::KIND, summary).query::<WriteQuery>().answers::<Changed<Alarm>>(200)
    };
    let test =
        Endpoint::new(HttpMethod::Post, "/v1/receivers/{name}/test", Receiver::KIND, "Send it a message about nothing");
    let routes = readable::<Notice>(managed::<Receiver>(managed::<Alarm>(routes)));
    routes
        .add(
            verb("acknowledge", "Say that somebody takes care of it").body::<AcknowledgeRequest>(),
            post(alarms::acknowledge),
        )
        .add(verb("silence", "Tell nobody of it for a while").body::<SilenceRequest>(), post(alarms::silence))
        .add(test.query::<WriteQuery>().answers::<Changed<Notice>>(200), post(alarms::test))
}

fn of_policies(routes: Routes) -> Routes {
    let update = Endpoint::new(
        HttpMethod::Post,
        "/v1/clusters/{name}/update",
        Cluster::KIND,
        "Update its hosts, one after the other: empty it, update it, put it back to work",
    );
    let apply = Endpoint::new(
        HttpMethod::Post,
        "/v1/policies/{name}/recommendations/{id}/apply",
        Policy::KIND,
        "Carry one of its recommendations out",
    );
    let routes = routes.add(apply.answers::<Operation>(202), post(policies::apply_recommendation));
    let routes = routes.add(
        update.query::<WriteQuery>().body::<UpdateClusterRequest>().answers::<Changed<Cluster>>(202),
        post(policies::update_cluster),
    );
    let routes = written::<Cluster, WriteQuery>(
        routes,
        post(policies::create_cluster),
        put(policies::put_cluster),
        delete(policies::delete_cluster),
    );
    written::<Policy, WriteQuery>(
        routes,
        post(policies::create_policy),
        put(policies::put_policy),
        delete(policies::delete_policy),
    )
}

fn of_snapshots(routes: Routes) -> Routes {
    let revert = Endpoint::new(
        HttpMethod::Post,
        "/v1/snapshots/{name}/revert",
        Snapshot::KIND,
        "Make its VM what it was; what is replaced is kept for a day",
    );
    written::<Snapshot, WriteQuery>(routes, post(snapshots::create), put(snapshots::put), delete(snapshots::delete))
        .add(
            revert.query::<WriteQuery>().body::<RevertRequest>().answers::<Changed<Snapshot>>(202),
            post(snapshots::revert),
        )
}

fn of_backups(routes: Routes) -> Routes {
    let verb = |method, verb: &str, summary: &str| {
        Endpoint::new(method, format!("/v1/backups/{{name}}/{verb}"), Backup::KIND, summary)
    };
    let restore = verb(HttpMethod::Post, "restore", "Make a VM whose disk has its content");
    let verify = verb(HttpMethod::Post, "verify", "Read all of it, and find out what is lost");
    let check = Endpoint::new(
        HttpMethod::Post,
        "/v1/repositories/{name}/check",
        Repository::KIND,
        "Have a host open it, which makes it where nothing is yet",
    );
    let adopt = Endpoint::new(
        HttpMethod::Post,
        "/v1/repositories/{name}/adopt",
        Repository::KIND,
        "Take in backups that it has and nobody here knows, a page at a time",
    );
    let routes = managed::<Repository>(routes)
        .add(check.query::<RepositoryCheckQuery>().answers::<RepositoryContent>(200), post(backups::check_repository))
        .add(adopt.query::<AdoptBackupsQuery>().answers::<AdoptedBackups>(200), post(backups::adopt));
    let files = verb(HttpMethod::Get, "files", "A directory or a part of a file in it, without restoring it");
    written::<Backup, DeleteBackupQuery>(routes, post(backups::create), put(backups::put), delete(backups::delete))
        .add(
            restore.query::<WriteQuery>().body::<RestoreBackupRequest>().answers::<Changed<Vm>>(202),
            post(backups::restore),
        )
        .add(verify.query::<WriteQuery>().answers::<Changed<Backup>>(202), post(backups::verify))
        .add(files.query::<BackupFilesQuery>().answers::<BackupContent>(200), get(backups::files))
}

fn of_storage(routes: Routes) -> Routes {
    let verb = |verb: &str, summary: &str| {
        let path = format!("/v1/volumes/{{name}}/{verb}");
        let endpoint = Endpoint::new(HttpMethod::Post, path, Volume::KIND, summary);
        endpoint.query::<WriteQuery>().answers::<Changed<Volume>>(202)
    };
    let routes = written::<Pool, WriteQuery>(
        routes,
        post(storage::create_pool),
        put(storage::put_pool),
        delete(storage::delete_pool),
    );
    written::<Volume, WriteQuery>(
        routes,
        post(storage::create_volume),
        put(storage::put_volume),
        delete(storage::delete_volume),
    )
    .add(
        Endpoint::new(HttpMethod::Get, "/v1/volumes/{name}/content", Volume::KIND, "All of it, as a file")
            .query::<ExportQuery>(),
        get(volume_content::export),
    )
    .add(verb("attach", "Give it to a VM, also while that runs").body::<AttachRequest>(), post(storage::attach))
    .add(
        verb("migrate", "Move it to another pool, while its guest writes").body::<MigrateVolumeRequest>(),
        post(storage::migrate),
    )
    .add(verb("detach", "Take it from its VM; a running guest has to let it go"), post(storage::detach))
}

fn of_the_rest(routes: Routes) -> Routes {
    let upload = Endpoint::new(
        HttpMethod::Put,
        "/v1/images/{name}/content",
        Image::KIND,
        "Send its content (qcow2, raw, VMDK, VHD, VHDX or VDI, also gz, xz or zst), whole or in pieces (Content-Range), \
         and import it",
    );
    let at_upload = |method, summary: &str| {
        let path = "/v1/images/{name}/upload";
        Endpoint::new(method, path, Image::KIND, summary).answers::<UploadState>(200)
    };
    let forget = Endpoint::new(HttpMethod::Delete, "/v1/hosts/{name}", Host::KIND, "Forget a host that has no VMs");
    let change = Endpoint::new(HttpMethod::Put, "/v1/hosts/{name}", Host::KIND, "Change its labels, or cordon it");
    let cancel = Endpoint::new(
        HttpMethod::Post,
        "/v1/operations/{name}/cancel",
        Operation::KIND,
        "Unwind it where that is safe",
    );
    let mint = Endpoint::new(HttpMethod::Post, "/v1/tokens", ApiToken::KIND, "Make one; the secret is shown only now");
    let revoke = Endpoint::new(HttpMethod::Delete, "/v1/tokens/{name}", ApiToken::KIND, "Refuse it from now on");
    let routes = written::<Image, WriteQuery>(routes, post(images::create), put(images::put), delete(images::delete));
    written::<Network, WriteQuery>(
        routes,
        post(writes::create_network),
        put(writes::put_network),
        delete(writes::delete_network),
    )
    // Content is as large as a disk; its own limit is the controller's configuration.
    .add(
        upload.query::<WriteQuery>().bytes().answers::<Changed<Image>>(202),
        put(images::upload).layer(DefaultBodyLimit::disable()),
    )
    .add(at_upload(HttpMethod::Get, "Where the next piece of its content begins"), get(upload_pieces::state))
    .add(at_upload(HttpMethod::Delete, "Throw away the pieces that have arrived"), delete(upload_pieces::discard))
    .add(change.query::<WriteQuery>().body::<Host>().answers::<Changed<Host>>(200), put(writes::put_host))
    .add(forget.query::<WriteQuery>().answers::<Changed<Host>>(200), delete(writes::delete_host))
    .add(cancel.query::<WriteQuery>().answers::<Operation>(200), post(writes::cancel_operation))
    .add(mint.query::<WriteQuery>().body::<CreateToken>().answers::<CreatedToken>(201), post(writes::create_token))
    .add(revoke.query::<WriteQuery>().answers::<Changed<ApiToken>>(200), delete(writes::delete_token))
}

fn of_users(routes: Routes) -> Routes {
    let at = |method, path: &str, summary: &str| Endpoint::new(method, path, StoredUser::KIND, summary);
    let make = at(HttpMethod::Post, "/v1/users", "Make one; a password that is made up is shown only now");
    let change = at(HttpMethod::Put, "/v1/users/{name}", "Change what he is called and may do");
    let remove = at(HttpMethod::Delete, "/v1/users/{name}", "Delete one who owns no VMs; his sessions end");
    let password = at(HttpMethod::Post, "/v1/users/{name}/password", "Set his password; his sessions end");
    let session = |method, summary: &str| Endpoint::new(method, "/v1/session", "session", summary);
    let log_in = session(HttpMethod::Post, "Log in; the session is a cookie").public();
    let login_limit = DefaultBodyLimit::max(session::MAX_LOGIN_BYTES);
    routes
        .add(make.query::<WriteQuery>().body::<CreateUser>().answers::<CreatedUser>(201), post(users::create))
        .add(change.query::<WriteQuery>().body::<StoredUser>().answers::<Changed<StoredUser>>(200), put(users::put))
        .add(remove.query::<WriteQuery>().answers::<Changed<StoredUser>>(200), delete(users::delete))
        .add(password.body::<SetPassword>().answers::<PasswordSet>(200), post(users::set_password))
        .add(log_in.body::<Login>().answers::<SessionInfo>(200), post(session::open).layer(login_limit))
        .add(session(HttpMethod::Get, "Who is asking").answers::<SessionInfo>(200), get(session::show))
        .add(session(HttpMethod::Delete, "Log out; what the session has open ends").status(204), delete(session::close))
}

fn of_the_whole(routes: Routes) -> Routes {
    let at = |path: &str, tag: &str, summary: &str| Endpoint::new(HttpMethod::Get, path, tag, summary);
    let whole = at("/v1/overview", "overview", "The datacenter at a glance: sums by group of hosts, and what is wrong");
    let bars = at("/v1/overview/hosts", "overview", "Hosts with the VMs that fill them");
    let search = at("/v1/search", "overview", "Objects of all kinds by name, label, address or uuid");
    let of_vm = at("/v1/vms/{name}/metrics", Vm::KIND, "What was measured lately");
    let of_host = at("/v1/hosts/{name}/metrics", Host::KIND, "What was measured lately");
    let energy = at("/v1/energy", "energy", "What hosts drew, and whose part of it that was");
    let counters = at("/v1/metrics", "overview", "Counters of ports and rules, in Prometheus' text format");
    let log = at("/v1/audit", "audit", "Who did what, the newest first");
    routes
        .add(whole.query::<OverviewQuery>().answers::<Overview>(200), get(overview::show))
        .add(bars.query::<OverviewHostsQuery>().answers::<OverviewHosts>(200), get(overview::hosts))
        .add(search.query::<SearchQuery>().answers::<SearchResult>(200), get(overview::find))
        .add(of_vm.query::<MetricsQuery>().answers::<MetricsHistory>(200), get(overview::vm_metrics))
        .add(of_host.query::<MetricsQuery>().answers::<MetricsHistory>(200), get(overview::host_metrics))
        .add(energy.query::<EnergyQuery>().answers::<EnergyReport>(200), get(overview::energy))
        .add(counters, get(overview::counters))
        .add(log.query::<AuditQuery>().answers::<AuditPage>(200), get(audit::list))
}

fn of_the_controller(routes: Routes) -> Routes {
    let tag = "controller";
    let health = Endpoint::new(HttpMethod::Get, paths::HEALTH, tag, "200 if the controller serves").public();
    let ca = Endpoint::new(HttpMethod::Get, paths::CA, tag, "The CA's certificate, PEM").public();
    let join = Endpoint::new(HttpMethod::Post, paths::JOIN, tag, "Join a host; the join token is the proof").public();
    let version = Endpoint::new(HttpMethod::Get, VERSION, tag, "What runs here");
    let document = Endpoint::new(HttpMethod::Get, OPENAPI, tag, "This document");
    routes
        .add(health, get(async || "ok\n"))
        .add(ca, get(hosts::ca))
        .add(
            join.body::<JoinRequest>().answers::<JoinResponse>(200),
            post(hosts::join).layer(DefaultBodyLimit::max(hosts::MAX_JOIN_BYTES)),
        )
        .add(version.answers::<Version>(200), get(show_version))
        .add(document, get(show_openapi))
}

async fn show_version(State(front): State<Shared>, _user: User) -> Answer<Version> {
    Ok(Json(front.version()))
}
async fn show_openapi(_user: User) -> Answer<OpenApi> {
    Ok(Json(openapi()))
}

/// What every kind can be asked.
fn readable<T: Kind + ToSchema>(routes: Routes) -> Routes {
    let all = format!("/v1/{}", T::PLURAL);
    let one = format!("{all}/{{name}}");
    routes
        .add(
            Endpoint::new(HttpMethod::Get, all, T::KIND, format!("List or watch {}", T::PLURAL))
                .query::<ListQuery>()
                .answers::<Page<T>>(200),
            get(objects::list::<T>),
        )
        .add(
            Endpoint::new(HttpMethod::Get, one, T::KIND, format!("One {}", T::KIND)).answers::<T>(200),
            get(objects::get::<T>),
        )
}

/// A kind that can be read and written and needs no route of its own.
fn managed<T: Managed + ToSchema>(routes: Routes) -> Routes {
    written::<T, WriteQuery>(
        readable::<T>(routes),
        post(managed::create::<T>),
        put(managed::put::<T>),
        delete(managed::delete::<T>),
    )
}

/// What every kind that users make can be asked besides.
fn written<T: Kind + ToSchema, Removal: IntoParams>(
    routes: Routes,
    create: MethodRouter<Arc<Front>>,
    replace: MethodRouter<Arc<Front>>,
    remove: MethodRouter<Arc<Front>>,
) -> Routes {
    let all = format!("/v1/{}", T::PLURAL);
    let one = format!("{all}/{{name}}");
    let endpoint =
        |method, path: &str, summary: String| Endpoint::new(method, path, T::KIND, summary).answers::<Changed<T>>(200);
    let create_at = endpoint(HttpMethod::Post, &all, format!("Create a {}", T::KIND)).status(201);
    let replace_at = endpoint(HttpMethod::Put, &one, format!("Create or change a {}", T::KIND));
    let remove_at = endpoint(HttpMethod::Delete, &one, format!("Delete a {}", T::KIND));
    routes
        .add(create_at.query::<WriteQuery>().body::<T>(), create)
        .add(replace_at.query::<WriteQuery>().body::<T>(), replace)
        .add(remove_at.query::<Removal>(), remove)
}
