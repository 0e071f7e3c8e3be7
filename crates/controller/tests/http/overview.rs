//! The overview, the search, scrolled lists and the history of what was measured.

use gantry_api::{
    agent::VmObservation,
    heartbeat::HostTraffic,
    overview::{Matched, MetricsHistory, Overview, OverviewHosts, SearchResult},
};
use gantry_types::{Port, PortTraffic, RuleTraffic, SecurityGroup, Vm, VmPhase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    datacenter::{Api, Datacenter, Watch, eventually},
};

fn vm(name: &str, memory: &str, tier: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"tier": tier}},
           "spec": {"cpus": 2, "memory": memory, "disk": "1GiB", "power": "stopped"}})
}

async fn create(api: &Api, vm: &Value) {
    let _made: Value = api.send(Method::POST, "/v1/vms", vm).await.expect("made");
}

async fn label(api: &Api, host: &str, rack: &str) {
    let mut object: Value = api.get(&format!("/v1/hosts/{host}")).await.expect("there");
    object["metadata"]["labels"] = json!({"rack": rack});
    let _changed: Value = api.send(Method::PUT, &format!("/v1/hosts/{host}"), &object).await.expect("changed");
}

#[tokio::test]
async fn the_overview_sums_by_group_and_its_stream_tells_what_changes() {
    let mut datacenter = Datacenter::new().await;
    let one = datacenter.ready("host-1").await;
    datacenter.ready("host-2").await;
    let api = datacenter.admin.clone();
    label(&api, "host-1", "r1").await;
    let overview: Overview = api.get("/v1/overview").await.expect("an overview");
    let groups: Vec<_> = overview.groups.iter().map(|group| (group.name.as_str(), group.totals.hosts.total)).collect();
    assert_eq!(groups, [("", 1), ("r1", 1)]);
    assert_eq!((overview.totals.cpu.capacity_cores, overview.totals.memory.capacity_bytes), (8, 8 << 30));
    assert_eq!(overview.totals.hosts.by_state["ready"], 2);
    assert_eq!((overview.wrong.len(), overview.wrong_total), (0, 0));

    let mut watch = Overviews::open(&api, "/v1/overview?watch=true").await;
    assert_eq!(watch.next().await.0, "overview");
    let mut running = vm("web", "256MiB", "front");
    running["spec"]["power"] = "running".into();
    running["spec"]["host"] = "host-1".into();
    create(&api, &running).await;
    let mut bars = Overviews::open(&api, "/v1/overview/hosts?group=r1&watch=true").await;
    let first = bars.next().await;
    assert_eq!((first.0.as_str(), first.1["name"].as_str()), ("host", Some("host-1")));
    assert_eq!(bars.next().await.0, "ready");
    loop {
        let (event, data) = watch.next().await;
        assert_eq!(event, "changed");
        let assigned = &data["totals"]["memory"]["assigned_bytes"];
        if *assigned == json!(256 << 20) {
            let groups = data["groups"].as_array().expect("groups");
            assert!(groups.iter().any(|group| group["name"] == "r1"), "{data}");
            break;
        }
    }
    eventually("the bar shows the VM", async || {
        let page: OverviewHosts = api.get("/v1/overview/hosts?group=r1").await.expect("hosts");
        (page.total == 1 && page.items[0].vms.first().is_some_and(|vm| vm.phase == VmPhase::Running)).then_some(())
    })
    .await;
    let page: OverviewHosts = api.get("/v1/overview/hosts?limit=1").await.expect("hosts");
    assert_eq!((page.items.len(), page.total, page.next.as_deref()), (1, 2, Some("host-1")));
    drop(one);
    // Nobody is heard any more.
    eventually("the hosts are lost, and that is told", async || {
        let overview: Overview = api.get("/v1/overview").await.expect("an overview");
        let wrong = overview.wrong.iter().find(|wrong| wrong.object.name == "host-1")?;
        assert!(wrong.what.contains("1 VMs") && wrong.remedy.is_some() && wrong.since.is_some(), "{wrong:?}");
        Some(())
    })
    .await;
}

/// Server-sent events of other shapes than a watch's.
struct Overviews {
    watch: Watch,
}

impl Overviews {
    async fn open(api: &Api, path: &str) -> Self {
        Self { watch: Watch::open(api.request(Method::GET, path)).await }
    }
    async fn next(&mut self) -> (String, Value) {
        let sent = self.watch.next().await.expect("the stream goes on");
        (sent.change, sent.data)
    }
}

#[tokio::test]
async fn what_an_alarm_fires_for_is_wrong_until_somebody_takes_care_of_it() {
    let datacenter = Datacenter::new().await;
    let api = datacenter.admin.clone();
    let alarm = json!({"metadata": {"name": "made"}, "spec": {"condition": {"event": {"reasons": ["VmCreated"]}}}});
    let _made: Value = api.send(Method::POST, "/v1/alarms", &alarm).await.expect("made");
    create(&api, &vm("web", "64MiB", "front")).await;
    let overview = async || -> Overview { api.get("/v1/overview").await.expect("an overview") };
    let wrong = eventually("it is told", async || overview().await.wrong.into_iter().next()).await;
    assert_eq!((wrong.object.kind.as_str(), wrong.object.name.as_str()), ("vm", "web"));
    assert_eq!(wrong.alarm.as_ref().map(|alarm| alarm.as_str()), Some("made"));
    assert!(wrong.since.is_some());
    let remedy = wrong.remedy.expect("what to do");
    assert!(remedy.contains("gantry alarm acknowledge made --object vm/web"), "{remedy}");
    let object = json!({"object": "vm/web"});
    let _changed: Value = api.send(Method::POST, "/v1/alarms/made/acknowledge", &object).await.expect("acknowledged");
    eventually("it is over", async || (overview().await.wrong_total == 0).then_some(())).await;
}

#[tokio::test]
async fn the_search_finds_by_name_label_address_and_uuid_and_only_what_one_may_see() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    datacenter.network().await;
    create(&api, &vm("web-1", "64MiB", "front")).await;
    create(&api, &vm("my-web", "64MiB", "back")).await;
    create(&api, &vm("web", "64MiB", "back")).await;
    let find = async |q: &str| -> Vec<(String, Matched)> {
        let result: SearchResult = api.get(&format!("/v1/search?q={q}")).await.expect("a result");
        result.items.into_iter().map(|found| (format!("{}/{}", found.kind, found.name), found.matched)).collect()
    };
    let by_name = |name: &str| (name.to_owned(), Matched::Name);
    assert_eq!(find("WEB").await, [by_name("vm/web"), by_name("vm/web-1"), by_name("vm/my-web")]);
    assert_eq!(find("tier%3Dfront").await, [("vm/web-1".to_owned(), Matched::Label)]);
    assert_eq!(find("127.0.0.1").await, [("host/host-1".to_owned(), Matched::Address)]);
    let web: Vm = api.get("/v1/vms/web").await.expect("it");
    assert_eq!(find(&web.metadata.uuid.to_string()).await, [("vm/web".to_owned(), Matched::Uuid)]);
    assert_eq!(find("default").await, [by_name("network/default")]);
    let few: SearchResult = api.get("/v1/search?q=web&limit=2").await.expect("a result");
    assert!(few.items.len() == 2 && few.more);
    let one: SearchResult = api.get("/v1/search?q=host&kind=host").await.expect("a result");
    assert_eq!(one.items.len(), 1);
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    let none: SearchResult = ann.get("/v1/search?q=web").await.expect("a result");
    assert!(none.items.is_empty());
    assert_eq!(api.refused(Method::GET, "/v1/search?q=", "").await.fields[0].field, "q");
}

#[tokio::test]
async fn lists_are_narrowed_sorted_and_scrolled() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    for (name, memory, tier) in [("a", "64MiB", "back"), ("b", "256MiB", "front"), ("c", "128MiB", "front")] {
        create(api, &vm(name, memory, tier)).await;
    }
    let names = async |query: &str| -> (Vec<String>, Option<u64>) {
        let page: Value = api.get(&format!("/v1/vms?{query}")).await.expect("a page");
        let items = page["items"].as_array().expect("items").clone();
        let names = items.iter().map(|vm| vm["metadata"]["name"].as_str().expect("a name").to_owned());
        (names.collect(), page["total"].as_u64())
    };
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(names("sort=memory").await, (list(&["a", "c", "b"]), Some(3)));
    assert_eq!(names("sort=-memory&limit=1&offset=1").await, (list(&["c"]), Some(3)));
    assert_eq!(names("q=front").await, (list(&["b", "c"]), Some(2)));
    assert_eq!(names("names=c,a,gone").await, (list(&["a", "c"]), None));
    assert_eq!(names("phase=running").await, (list(&[]), None));
    assert_eq!(names("phase=stopped&selector=tier%3Dback").await, (list(&["a"]), None));
    assert_eq!(names("owner=ann").await, (list(&[]), None));
    // A VM is no VM's, as its ports are.
    assert_eq!(names("vm=a").await, (list(&[]), None));
    for (query, field) in [("sort=colour", "sort"), ("q=a&continue=a", "continue"), ("watch=true&offset=1", "watch")] {
        assert_eq!(api.refused(Method::GET, &format!("/v1/vms?{query}"), "").await.fields[0].field, field);
    }
    let mut watch = Watch::open(api.request(Method::GET, "/v1/vms?watch=true&names=b,z")).await;
    watch.expect("added", "b").await;
    watch.expect("bookmark", "").await;
    create(api, &vm("y", "64MiB", "back")).await;
    create(api, &vm("z", "64MiB", "back")).await;
    watch.expect("added", "z").await;
    // What is only about it is found by its name too.
    create(api, &vm("front-door", "64MiB", "back")).await;
    let told: Value = api.get("/v1/events?q=front-door&sort=-created_at").await.expect("a page");
    let about =
        told["items"].as_array().expect("items").iter().map(|event| event["spec"]["regarding"]["name"].as_str());
    let about: Vec<_> = about.collect();
    assert!(!about.is_empty() && about.iter().all(|name| *name == Some("front-door")), "{told}");
}

#[tokio::test]
async fn what_was_measured_is_remembered() {
    let mut datacenter = Datacenter::new().await;
    let host = datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    let mut running = vm("web", "64MiB", "front");
    running["spec"]["power"] = "running".into();
    create(&api, &running).await;
    let web: Vm = eventually("it runs", async || {
        let vm: Vm = api.get("/v1/vms/web").await.expect("it");
        (vm.status.phase == VmPhase::Running && vm.status.operation.is_none()).then_some(vm)
    })
    .await;
    let observed: VmObservation = serde_json::from_value(json!({
        "uuid": web.metadata.uuid, "name": "web", "epoch": web.status.epoch, "state": "running", "guest_agent": false,
        "owner_uid": 200_000,
        "metrics": {"cpu_time_ms": 10, "cpu_percent": 50.0, "resident_memory": "64MiB", "disk_read_bytes_per_s": 1024,
            "disk_write_bytes_per_s": 0, "net_rx_bytes_per_s": 0, "net_tx_bytes_per_s": 0}
    }))
    .expect("an observation");
    host.heartbeat(2, vec![observed]).await.expect("taken in");
    let history: MetricsHistory = api.get("/v1/vms/web/metrics").await.expect("a history");
    assert_eq!((history.step_s, history.cpu_percent.as_slice()), (1, &[Some(50.0)][..]));
    assert_eq!((history.at.len(), history.disk_read_bytes_per_s[0]), (1, Some(1024.0)));
    let history: MetricsHistory = api.get("/v1/hosts/host-1/metrics?step_s=1").await.expect("a history");
    assert_eq!(history.disk_read_bytes_per_s.last(), Some(&Some(1024.0)), "the sum of its VMs'");
    assert_eq!(api.refused(Method::GET, "/v1/vms/web/metrics?step_s=7", "").await.fields[0].field, "step_s");
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    assert_eq!(ann.get::<Value>("/v1/vms/web/metrics").await.expect_err("not hers").status, 404);
    assert_eq!(ann.get::<Value>("/v1/hosts/host-1/metrics").await.expect_err("not for her").status, 403);
}

#[tokio::test]
async fn what_hosts_have_counted_is_shown_with_ports_and_groups_and_told_to_prometheus() {
    let mut datacenter = Datacenter::new().await;
    datacenter.network().await;
    let (one, two) = (datacenter.ready("host-1").await, datacenter.ready("host-2").await);
    let api = datacenter.admin.clone();
    let group = json!({"metadata": {"name": "web"}, "spec": {"rules": [{"protocol": "tcp", "ports": 443}]}});
    let _made: Value = api.send(Method::POST, "/v1/security-groups", &group).await.expect("made");
    let group: SecurityGroup = api.get("/v1/security-groups/web").await.expect("there");
    let port = json!({"metadata": {"name": "front"}, "spec": {"network": "default"}});
    let _made: Value = api.send(Method::POST, "/v1/ports", &port).await.expect("made");
    let port: Port = api.get("/v1/ports/front").await.expect("there");
    assert_eq!(port.status.traffic, None);
    let rule = group.spec.rules[0].to_string();
    let let_through = |packets: u64| RuleTraffic { rule: rule.clone(), packets, bytes: packets * 100 };
    let passed =
        PortTraffic { received_bytes: 1, received_packets: 2, sent_bytes: 3, sent_packets: 4, spoofed_packets: 5 };
    let report = |packets: u64| HostTraffic {
        ports: [].into(),
        rules: [(group.metadata.uuid, vec![let_through(packets)])].into(),
    };
    one.counted(2, HostTraffic { ports: [(port.metadata.uuid, passed)].into(), ..report(5) }).await.expect("taken in");
    two.counted(2, report(6)).await.expect("taken in");
    // A heartbeat that tells nothing takes nothing back.
    one.heartbeat(3, Vec::new()).await.expect("taken in");

    let port: Port = api.get("/v1/ports/front").await.expect("there");
    assert_eq!(port.status.traffic, Some(passed));
    let group: SecurityGroup = api.get("/v1/security-groups/web").await.expect("there");
    assert_eq!(group.status.traffic, [let_through(11)]);
    let response = api.request(Method::GET, "/v1/metrics").send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let text = response.text().await.expect("text");
    for line in [
        "# TYPE gantry_port_sent_bytes_total counter".to_owned(),
        r#"gantry_port_received_packets_total{port="front",network="default",vm=""} 2"#.to_owned(),
        r#"gantry_port_sent_bytes_total{port="front",network="default",vm=""} 3"#.to_owned(),
        r#"gantry_port_spoofed_packets_total{port="front",network="default",vm=""} 5"#.to_owned(),
        format!(r#"gantry_rule_packets_total{{security_group="web",rule="{rule}"}} 11"#),
        format!(r#"gantry_rule_bytes_total{{security_group="web",rule="{rule}"}} 1100"#),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert_eq!(datacenter.with_token(None).refused(Method::GET, "/v1/metrics", "").await.status, 401);
}
