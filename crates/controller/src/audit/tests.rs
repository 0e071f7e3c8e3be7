use gantry_api::{
    audit::{AuditOutcome, AuditQuery},
    overview::Named,
};
use gantry_types::Timestamp;

use super::*;

fn entry(second: i64, who: &str, vm: &str) -> AuditEntry {
    AuditEntry {
        id: 0,
        at: Timestamp::from_unix_ms(second * 1000),
        who: who.to_owned(),
        address: "192.0.2.1".to_owned(),
        action: "POST /v1/vms/{name}/start".to_owned(),
        object: Some(Named { kind: "vm".to_owned(), name: vm.to_owned() }),
        outcome: if vm == "bad" { AuditOutcome::Refused } else { AuditOutcome::Done },
        status: 202,
        code: None,
    }
}

fn small() -> AuditLimits {
    // Two entries a file.
    AuditLimits { file_bytes: 250, total_bytes: 1 << 20, age: Duration::from_secs(1000) }
}

fn ids(directory: &Path, query: AuditQuery) -> Vec<u64> {
    page(directory, &query).unwrap().items.iter().map(|entry| entry.id).collect()
}

#[test]
fn entries_come_newest_first_and_page_by_page_across_files() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::open(directory.path(), small()).unwrap();
    for second in 1..=7 {
        log.append(entry(second, "user/ann", "web")).unwrap();
    }
    assert!(segments(directory.path()).unwrap().len() > 2);
    assert_eq!(ids(directory.path(), AuditQuery::default()), [7, 6, 5, 4, 3, 2, 1]);
    let mut query = AuditQuery { limit: Some(3), ..AuditQuery::default() };
    let mut seen = Vec::new();
    loop {
        let page = page(directory.path(), &query).unwrap();
        seen.extend(page.items.iter().map(|entry| entry.id));
        match page.next {
            Some(next) => query.next = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn filters_narrow() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::open(directory.path(), AuditLimits::default()).unwrap();
    log.append(entry(1, "user/ann", "web")).unwrap();
    log.append(entry(2, "token/ann", "db")).unwrap();
    log.append(entry(3, "user/bob", "bad")).unwrap();
    let of = |change: fn(&mut AuditQuery)| {
        let mut query = AuditQuery::default();
        change(&mut query);
        ids(directory.path(), query)
    };
    assert_eq!(of(|query| query.user = Some("ann".into())), [2, 1]);
    assert_eq!(of(|query| query.user = Some("user/ann".into())), [1]);
    assert_eq!(of(|query| query.object = Some("vm/db".into())), [2]);
    assert_eq!(of(|query| query.outcome = Some(AuditOutcome::Refused)), [3]);
    assert_eq!(of(|query| query.since = Some(Timestamp::from_unix_ms(2000))), [3, 2]);
    assert_eq!(of(|query| query.until = Some(Timestamp::from_unix_ms(2000))), [2, 1]);
    assert!(of(|query| query.action = Some("migrate".into())).is_empty());
}

#[test]
fn it_goes_on_after_a_restart_and_after_a_line_that_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let open = || AuditLog::open(directory.path(), AuditLimits::default()).unwrap();
    open().append(entry(1, "user/ann", "web")).unwrap();
    let log = open();
    log.append(entry(2, "user/ann", "web")).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, newest) = segments(directory.path()).unwrap().pop().unwrap();
    OpenOptions::new().append(true).open(newest).unwrap().write_all(b"{\"id\":3,\"at\":\"20").unwrap();
    open().append(entry(4, "user/ann", "web")).unwrap();
    assert_eq!(ids(directory.path(), AuditQuery::default()), [3, 2, 1]);
}

#[test]
fn the_oldest_files_go_by_size_and_by_age_and_the_newest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::open(directory.path(), AuditLimits { total_bytes: 600, ..small() }).unwrap();
    for second in 1..=20 {
        log.append(entry(second, "user/ann", "web")).unwrap();
    }
    assert!(log.trim(SystemTime::now()).unwrap() > 0);
    let left = ids(directory.path(), AuditQuery::default());
    assert!(left.first() == Some(&20) && left.len() < 10, "{left:?}");
    log.trim(SystemTime::now() + Duration::from_secs(5000)).unwrap();
    assert_eq!(segments(directory.path()).unwrap().len(), 1);
    log.append(entry(21, "user/ann", "web")).unwrap();
    assert_eq!(ids(directory.path(), AuditQuery::default())[0], 21);
}
