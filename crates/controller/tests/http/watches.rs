//! Watches: a watcher sees every change, also over a broken connection, and one that is too slow is cut off.

use std::time::Duration;

use gantry_controller::objects::Change;
use gantry_types::{Event, Network, ObjectRef, Severity};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::datacenter::{Api, Datacenter, Watch, name};

async fn put(api: &Api, network: &str, number: u8, tier: &str) {
    let sent = json!({"metadata": {"name": network, "labels": {"tier": tier}},
                      "spec": {"subnet": {"cidr": format!("10.{number}.0.0/24")}}});
    let _made: Value = api.send(Method::PUT, &format!("/v1/networks/{network}"), &sent).await.expect("written");
}

fn watch(api: &Api, query: &str) -> RequestBuilder {
    api.request(Method::GET, &format!("/v1/networks?watch=true{query}"))
}

#[tokio::test]
async fn what_is_there_comes_first_then_a_bookmark_then_each_change() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    put(api, "a", 1, "front").await;
    put(api, "b", 2, "back").await;
    let mut all = Watch::open(watch(api, "")).await;
    // From the middle of the listing nothing can be resumed.
    assert_eq!(all.expect("added", "a").await.id, None);
    assert_eq!(all.expect("added", "b").await.id, None);
    let listed = all.expect("bookmark", "").await;
    assert_eq!(listed.id, Some(datacenter.app.model.revision()));
    put(api, "c", 3, "front").await;
    let added = all.expect("added", "c").await;
    assert_eq!(added.id, added.data["revision"].as_u64());
    assert_eq!(added.data["object"]["metadata"]["revision"].as_u64(), added.id);
    put(api, "c", 3, "back").await;
    all.expect("modified", "c").await;
    api.delete("/v1/networks/a").await.expect("deleted");
    let deleted = all.expect("deleted", "a").await;
    assert_eq!(deleted.data["object"]["spec"]["subnet"]["cidr"], "10.1.0.0/24");
}

#[tokio::test]
async fn objects_come_and_go_as_their_labels_change() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    put(api, "a", 1, "front").await;
    put(api, "b", 2, "back").await;
    let mut front = Watch::open(watch(api, "&selector=tier%3Dfront")).await;
    front.expect("added", "a").await;
    front.expect("bookmark", "").await;
    put(api, "b", 2, "front").await;
    front.expect("added", "b").await;
    put(api, "a", 1, "back").await;
    front.expect("deleted", "a").await;
    // It is not selected any more, so its end is no news.
    api.delete("/v1/networks/a").await.expect("deleted");
    api.delete("/v1/networks/b").await.expect("deleted");
    front.expect("deleted", "b").await;
}

#[tokio::test]
async fn a_watch_is_resumed_without_a_gap() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    put(api, "a", 1, "front").await;
    let mut first = Watch::open(watch(api, "")).await;
    first.expect("added", "a").await;
    let seen = first.expect("bookmark", "").await.id.expect("a revision");
    drop(first);
    put(api, "b", 2, "front").await;
    api.delete("/v1/networks/a").await.expect("deleted");
    for resumed in [watch(api, "").header("last-event-id", seen), watch(api, &format!("&revision={seen}"))] {
        let mut resumed = Watch::open(resumed).await;
        resumed.expect("added", "b").await;
        let last = resumed.expect("deleted", "a").await.id.expect("a revision");
        assert_eq!(last, datacenter.app.model.revision());
    }
    // Also after one of several changes that were made together.
    let mut both = Change::new();
    for (index, network) in ["x", "y"].iter().enumerate() {
        let spec = serde_json::from_value(json!({"subnet": {"cidr": format!("10.{}.0.0/24", index + 20)}}));
        both.create(&Network::new(name(network), spec.expect("a spec"))).expect("writable");
    }
    let mut watching = Watch::open(watch(api, &format!("&revision={}", datacenter.app.model.revision()))).await;
    datacenter.app.objects.commit(both).await.expect("written");
    let half = watching.expect("added", "x").await.id.expect("a revision");
    drop(watching);
    let mut resumed = Watch::open(watch(api, "").header("last-event-id", half)).await;
    while resumed.next().await.expect("the watch goes on").object_name() != "y" {}
}

async fn burst(datacenter: &Datacenter, count: usize, message: &str) {
    let mut left = count;
    while left > 0 {
        let together = left.min(125);
        let mut change = Change::new();
        for _ in 0..together {
            let regarding = ObjectRef { kind: "vm".into(), name: name("a"), uuid: uuid::Uuid::nil() };
            change.event(&datacenter.app.event(regarding, Severity::Normal, "Noise", message)).expect("writable");
        }
        datacenter.app.objects.commit(change).await.expect("written");
        left -= together;
    }
    let revision = datacenter.app.objects.store().revision().await.expect("a store");
    datacenter.app.model.wait_for(revision.0).await;
}

#[tokio::test]
async fn a_revision_that_is_too_old_is_refused() {
    let datacenter = Datacenter::with(|config| config.max_events = usize::MAX).await;
    let old = datacenter.app.model.revision();
    burst(&datacenter, 10_000, "noise").await;
    let problem = crate::datacenter::refused(watch(&datacenter.admin, &format!("&revision={old}"))).await;
    assert_eq!((problem.status, problem.code()), (409, "revision-too-old"));
    assert!(problem.remedy.is_some());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_told_no_half_truth() {
    let configure = |config: &mut gantry_controller::Config| {
        config.max_events = usize::MAX;
        // However slow the machine is.
        config.bookmark_interval = Duration::from_secs(3600);
    };
    let datacenter = Datacenter::with(configure).await;
    let mut watch = Watch::open(datacenter.admin.request(Method::GET, "/v1/events?watch=true")).await;
    watch.expect("bookmark", "").await;
    let mut expected = datacenter.app.model.subscribe::<Event>().changes;
    // More than what is kept for it and what the connection itself can hold.
    let message = "x".repeat(2000);
    let mut names = Vec::new();
    for _ in 0..8 {
        burst(&datacenter, 2500, &message).await;
        while let Ok(change) = expected.try_recv() {
            if let gantry_controller::model::AnyObject::Event(event) = &change.object {
                names.push(event.metadata.name.to_string());
            }
        }
    }
    let mut seen = Vec::new();
    while let Some(sent) = watch.next().await {
        assert_eq!(sent.change, "added");
        seen.push(sent.object_name().to_owned());
    }
    assert!(!seen.is_empty() && seen.len() < names.len(), "{} of {}", seen.len(), names.len());
    assert!(seen == names[..seen.len()], "there is a gap");
}

#[tokio::test]
async fn a_quiet_watch_is_told_the_revision_while_others_change() {
    let datacenter = Datacenter::with(|config| config.bookmark_interval = Duration::from_millis(100)).await;
    let api = &datacenter.admin;
    let mut quiet = Watch::open(api.request(Method::GET, "/v1/vms?watch=true")).await;
    let first = quiet.expect("bookmark", "").await.id.expect("a revision");
    let busy = async {
        for number in 0u64.. {
            put(api, "busy", 1, &number.to_string()).await;
        }
    };
    let told = async {
        loop {
            let next = quiet.expect("bookmark", "").await.id.expect("a revision");
            if next > first {
                return next;
            }
        }
    };
    tokio::select! {
        () = busy => unreachable!("it never ends"),
        next = told => assert!(next <= datacenter.app.model.revision()),
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_token() {
    let datacenter = Datacenter::new().await;
    let shown = datacenter.mint("short-lived", gantry_types::Role::Viewer, None).await;
    let mut ended = Watch::open(watch(&datacenter.with_token(Some(&shown)), "")).await;
    let mut goes_on = Watch::open(watch(&datacenter.admin, "")).await;
    ended.expect("bookmark", "").await;
    goes_on.expect("bookmark", "").await;
    datacenter.admin.delete("/v1/tokens/short-lived").await.expect("deleted");
    assert!(ended.next().await.is_none(), "it tells nothing any more");
    put(&datacenter.admin, "a", 1, "front").await;
    goes_on.expect("added", "a").await;
}
