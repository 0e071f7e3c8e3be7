//! Files that are right, and files that are wrong in every way.

use super::*;

const VM: &str = "kind: vm\nmetadata: {name: web}\nspec: {cpus: 1, memory: 256MiB, image: tiny}\n";

fn yaml(text: &str) -> Result<Vec<Object>, Problem> {
    parse("web.yaml", text, FileFormat::Yaml)
}

fn refusal(text: &str) -> String {
    yaml(text).expect_err(text).detail
}

#[test]
fn all_forms_say_the_same() {
    let expected = yaml(VM).unwrap();
    let json =
        r#"{"kind": "vm", "metadata": {"name": "web"}, "spec": {"cpus": 1, "memory": 268435456, "image": "tiny"}}"#;
    let toml = "[[objects]]\nkind = 'vm'\nmetadata.name = 'web'\n[objects.spec]\ncpus = 1\nmemory = '256MiB'\nimage = 'tiny'\n";
    assert_eq!(yaml(json).unwrap(), expected);
    assert_eq!(yaml(&format!("[{json}]")).unwrap(), expected);
    assert_eq!(parse("x.toml", toml, FileFormat::Toml).unwrap(), expected);
    assert_eq!(parse("standard input", toml, FileFormat::Unknown).unwrap(), expected);
    assert_eq!(parse("standard input", json, FileFormat::Unknown).unwrap(), expected);
}

#[test]
fn many_documents_are_read_and_empty_ones_passed_over() {
    let text = format!("---\n{VM}---\n# nothing\n---\n{}", VM.replace("web", "db"));
    let objects = yaml(&text).unwrap();
    assert_eq!(objects.iter().map(Object::name).collect::<Vec<_>>(), ["web", "db"]);
}

#[test]
fn what_get_prints_is_read_back_without_what_is_the_controllers() {
    let mut vm: Vm = match yaml(VM).unwrap().remove(0) {
        Object::Vm(vm) => *vm,
        other => panic!("{other:?}"),
    };
    let wanted = vm.clone();
    vm.metadata.revision = 77;
    vm.metadata.uuid = "01a2088f-56c1-74a0-94c6-9cb861b0d204".parse().unwrap();
    vm.metadata.created_at = Some(gantry_types::Timestamp::from_unix_ms(1));
    vm.status.phase = gantry_types::VmPhase::Running;
    vm.status.host = Some("host-1".parse().unwrap());
    let printed = crate::output::yaml(&vm).unwrap();
    assert_eq!(yaml(&printed).unwrap(), [Object::Vm(Box::new(wanted))]);
}

#[test]
fn mistakes_are_named_with_their_place() {
    let second_is_wrong = format!("{VM}---\n{}", VM.replace("cpus", "cpu"));
    assert!(refusal(&second_is_wrong).starts_with("web.yaml, object 2: vm 'web': spec: unknown field `cpu`"));
    for (from, to, expected) in [
        ("kind: vm\n", "", "it has no kind"),
        ("kind: vm", "kind: pod", "'pod' is not a kind"),
        ("kind: vm", "kind: [vm]", "it has no kind"),
        ("kind: vm", "kind: operation", "can't be applied"),
        ("kind: vm", "kind: event", "can't be applied"),
        ("kind: vm", "kind: token", "gantry token create"),
        ("kind: vm", "kind: vm\nkind: vm", "duplicate"),
        ("kind: vm", "kind: vm\nextra: 1", "unknown field `extra`"),
        ("{name: web}", "{}", "missing field `name`"),
        ("{name: web}", "{name: Web}", "not a valid name"),
        ("{name: web}", "{name: ../web}", "not a valid name"),
        ("{name: web}", "{name: 7}", "metadata"),
        ("{name: web}", "{name: web, colour: red}", "unknown field `colour`"),
        ("{name: web}", "{name: web, labels: {'a b': x}}", "label key 'a b'"),
        ("{name: web}", "{name: web, labels: {a: 1}}", "metadata: invalid type"),
        ("metadata: {name: web}\n", "", "it has no metadata"),
        ("256MiB", "256XiB", "'256XiB' is not a size"),
        ("256MiB", "-1", "spec"),
        ("cpus: 1", "cpus: one", "spec: invalid type"),
        ("cpus: 1", "cpus: -1", "spec: invalid value"),
        ("cpus: 1, ", "", "missing field `cpus`"),
        ("image: tiny", "nics: [{network: a, address: 10.0.0.300}]", "spec"),
    ] {
        let text = VM.replacen(from, to, 1);
        assert_ne!(text, VM);
        let found = refusal(&text);
        assert!(found.contains(expected) && found.starts_with("web.yaml, "), "{text}\n{found}");
    }
}

#[test]
fn what_is_no_description_at_all_is_refused() {
    for text in ["", "---\n", "# only a comment\n", "[]", "null"] {
        assert!(refusal(text).contains("describes no objects"), "{text}");
    }
    for text in ["just words", "- 1\n- 2", "kind: {", "\tkind: vm", "{\"kind\": \"vm\"", "&a [*a]", "a: !!binary x"] {
        assert!(refusal(text).starts_with("web.yaml, "), "{text}: {}", refusal(text));
    }
    assert!(parse("x.toml", "objects = 3", FileFormat::Toml).is_err());
    assert!(parse("x.toml", "[[object]]\nkind = 'vm'", FileFormat::Toml).is_err(), "a misspelt table is not nothing");
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        text += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    assert!(refusal(&text).contains("repetition limit"));
}

#[test]
fn files_are_read_in_the_order_of_what_refers_to_what() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let network = "kind: network\nmetadata: {name: n}\nspec: {subnet: {cidr: 10.9.0.0/24}}\n";
    std::fs::write(path("a.yaml"), format!("{VM}---\n{network}")).unwrap();
    std::fs::write(path("b.json"), r#"{"kind":"image","metadata":{"name":"tiny"},"spec":{}}"#).unwrap();
    let objects = read_all(&[path("a.yaml"), path("b.json")]).unwrap();
    let kinds: Vec<_> = objects.iter().map(|object| object.kind().singular()).collect();
    assert_eq!(kinds, ["network", "image", "vm"]);

    std::fs::write(path("again.yaml"), VM).unwrap();
    let twice = read_all(&[path("a.yaml"), path("again.yaml")]).unwrap_err();
    assert!(twice.detail.contains("vm/web is described twice"));
    std::fs::write(path("image.qcow2"), b"QFI\xfb\x00\xff").unwrap();
    assert!(read_all(&[path("image.qcow2")]).unwrap_err().detail.contains("not text"));
    assert!(read_all(&[path("missing.yaml")]).unwrap_err().detail.contains("could not be read"));
    assert!(read_all(&[directory.path().to_owned()]).is_err());
}
