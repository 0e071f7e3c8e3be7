//! Every typed command against the installed QEMU's own description of itself: its name, its arguments
//! down to the last member, and the members that are read from its answer.

mod support;

use std::collections::HashMap;

use gantry_qemu::qmp::Command;
use gantry_qemu::qmp::command::*;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::Value;
use support::TestVm;

struct Schema(HashMap<String, Value>);

impl Schema {
    fn entity(&self, name: &Value) -> &Value {
        &self.0[name.as_str().expect("a type's name")]
    }

    /// Checks a value against a type; `Err` says where they differ.
    fn check(&self, value: &Value, type_name: &Value, at: &str) -> Result<(), String> {
        let entity = self.entity(type_name);
        let wrong = |what: &str| Err(format!("{at}: {what}: {value}"));
        match entity["meta-type"].as_str().expect("meta-type") {
            "object" => self.check_object(value, entity, at),
            "enum" => {
                let known = entity["values"].as_array().expect("values");
                if known.contains(value) { Ok(()) } else { wrong("not a value of the enum") }
            }
            "array" => {
                let Some(items) = value.as_array() else { return wrong("not an array") };
                items.iter().try_for_each(|item| self.check(item, &entity["element-type"], at))
            }
            "alternate" => {
                let members = entity["members"].as_array().expect("members");
                let fits = members.iter().any(|m| self.check(value, &m["type"], at).is_ok());
                if fits { Ok(()) } else { wrong("fits no alternative") }
            }
            _ => {
                let fits = match entity["json-type"].as_str().expect("json-type") {
                    "string" => value.is_string(),
                    "int" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    _ => true,
                };
                if fits { Ok(()) } else { wrong("of another type") }
            }
        }
    }

    /// The members of an object, those of the variant that `value` selects included.
    fn members(&self, value: &Value, entity: &Value) -> Vec<Value> {
        let mut members = entity["members"].as_array().cloned().unwrap_or_default();
        if let Some(tag) = entity["tag"].as_str() {
            for variant in entity["variants"].as_array().expect("variants") {
                if variant["case"] == value[tag] {
                    members.extend(self.members(value, self.entity(&variant["type"])));
                }
            }
        }
        members
    }

    fn check_object(&self, value: &Value, entity: &Value, at: &str) -> Result<(), String> {
        let members = self.members(value, entity);
        let object = value.as_object().ok_or(format!("{at}: not an object"))?;
        for (key, item) in object {
            let member = members.iter().find(|member| member["name"] == *key.as_str());
            let member = member.ok_or(format!("{at}: no member {key}"))?;
            self.check(item, &member["type"], &format!("{at}.{key}"))?;
        }
        for member in members {
            let name = member["name"].as_str().expect("name");
            if member.get("default").is_none() && !object.contains_key(name) {
                return Err(format!("{at}: member {name} is missing"));
            }
        }
        Ok(())
    }

    fn check_command<C: Command>(&self, command: C) {
        let entity = self.0.get(C::NAME).unwrap_or_else(|| panic!("no command {}", C::NAME));
        assert_eq!(entity["meta-type"], "command", "{}", C::NAME);
        if C::OUT_OF_BAND {
            assert_eq!(entity["allow-oob"], true, "{}", C::NAME);
        }
        let arguments = serde_json::to_value(command).expect("JSON");
        if let Err(error) = self.check(&arguments, &entity["arg-type"], C::NAME) {
            panic!("{error}");
        }
        let mut answer = self.entity(&entity["ret-type"]);
        if answer["meta-type"] == "array" {
            answer = self.entity(&answer["element-type"]);
        }
        let known = answer["members"].as_array().cloned().unwrap_or_default();
        for field in fields::<C::Return>() {
            assert!(known.iter().any(|m| m["name"] == *field), "{}: answer has no {field}", C::NAME);
        }
    }
}

/// The member names a type (or the elements of a list of it) asks its deserializer for.
fn fields<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut names = Vec::new();
    // Ends in an error by design: only the question is of interest.
    T::deserialize(FieldNames(&mut names)).err();
    names
}

struct FieldNames<'a>(&'a mut Vec<&'static str>);

struct OneElement<'a>(&'a mut Vec<&'static str>);

impl<'de> serde::de::SeqAccess<'de> for OneElement<'_> {
    type Error = serde::de::value::Error;
    fn next_element_seed<S: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        seed.deserialize(FieldNames(self.0)).map(Some)
    }
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(Self::Error::custom("names noted"))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(OneElement(self.0))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct tuple tuple_struct map enum identifier ignored_any
    }
}

#[tokio::test]
async fn every_command_is_in_the_schema() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    let vm = TestVm::incoming(scratch.path(), "vm").await;
    let entities = vm.qmp.execute(QueryQmpSchema {}).await.expect("schema");
    let name = |entity: &Value| entity["name"].as_str().expect("name").to_owned();
    let schema = Schema(entities.into_iter().map(|entity| (name(&entity), entity)).collect());
    let text = || "text".to_owned();
    let address = || InetAddress { host: text(), port: text() };

    schema.check_command(QmpCapabilities { enable: vec!["oob".to_owned()] });
    schema.check_command(QueryQmpSchema {});
    schema.check_command(QueryStatus {});
    schema.check_command(QueryMachines {});
    schema.check_command(Stop {});
    schema.check_command(Cont {});
    schema.check_command(SystemPowerdown {});
    schema.check_command(SystemReset {});
    schema.check_command(AnnounceSelf { initial: 1, max: 1, rounds: 1, step: 1 });
    schema.check_command(Quit {});
    schema.check_command(QueryBlockstats {});
    schema.check_command(QueryBlockJobs {});
    schema.check_command(QueryBlock {});
    schema.check_command(QueryNamedBlockNodes { flat: true });
    schema.check_command(NbdServerStop {});
    schema.check_command(QueryMigrate {});
    schema.check_command(MigrateCancel {});
    schema.check_command(MigrateStartPostcopy {});
    let node = YankInstance::BlockNode { node_name: text() };
    schema.check_command(Yank { instances: vec![node] });
    for endpoint in [TlsEndpoint::Client, TlsEndpoint::Server] {
        schema.check_command(ObjectAdd::TlsCredsX509 { id: text(), dir: text(), endpoint, verify_peer: true });
    }
    schema.check_command(ObjectAdd::AuthzSimple { id: text(), identity: text() });
    schema.check_command(ObjectDel { id: text() });
    schema.check_command(BlockdevAdd::Nbd {
        node_name: text(),
        server: SocketAddress::Inet(address()),
        export: text(),
        open_timeout: 1,
        tls_creds: Some(text()),
        tls_hostname: Some(text()),
    });
    schema.check_command(BlockdevDel { node_name: text() });
    let limits = ThrottleLimits { iops_total: 1, bps_total: 1 };
    schema.check_command(ObjectAddAny(serde_json::json!({
        "qom-type": "throttle-group", "id": "vl-1", "limits": limits
    })));
    schema.check_command(BlockResize { node_name: text(), size: 1 });
    schema.check_command(DeviceDel { id: text() });
    schema.check_command(QomList { path: text() });
    let (path, property) = (text(), text());
    schema.check_command(QomSetLimits { path, property, value: limits });
    for sync in [MirrorSync::Full, MirrorSync::Top] {
        schema.check_command(BlockdevMirror {
            job_id: text(),
            device: text(),
            target: text(),
            sync,
            copy_mode: MirrorCopyMode::Background,
            speed: 0,
            replaces: Some(text()),
            filter_node_name: Some(text()),
            auto_finalize: false,
            auto_dismiss: false,
        });
    }
    let (job_id, device, target) = (text(), text(), text());
    let bitmap = BackupBitmap { bitmap: text(), bitmap_mode: BitmapMode::Never };
    let (sync, bitmap) = (MirrorSync::Bitmap, Some(bitmap));
    schema.check_command(BlockdevBackup { job_id, device, target, sync, bitmap, auto_dismiss: false });
    schema.check_command(QueryBlockGraph {});
    for change in [ChildChange::Node(text()), ChildChange::Child(text())] {
        schema.check_command(BlockdevChange { parent: text(), change });
    }
    schema.check_command(BlockJobCancel { device: text(), force: true });
    schema.check_command(JobComplete { id: text() });
    schema.check_command(JobFinalize { id: text() });
    schema.check_command(JobCancel { id: text() });
    schema.check_command(JobDismiss { id: text() });
    schema.check_command(QueryJobs {});
    let (job_id, tag, vmstate, devices) = (text(), text(), text(), vec![text()]);
    schema.check_command(SnapshotSave { job_id, tag, vmstate, devices });
    let (job_id, tag, vmstate, devices) = (text(), text(), text(), vec![text()]);
    schema.check_command(SnapshotLoad { job_id, tag, vmstate, devices });
    schema.check_command(SnapshotDelete { job_id: text(), tag: text(), devices: vec![text()] });
    let action = TransactionAction::BlockdevSnapshotInternalSync { device: text(), name: text() };
    schema.check_command(Transaction { actions: vec![action] });
    let bitmap = || DirtyBitmap { node: text(), name: text() };
    let noting = || DirtyBitmapAdd { node: text(), name: text(), persistent: false };
    let keeping = || BlockdevBackup {
        job_id: text(),
        device: text(),
        target: text(),
        sync: MirrorSync::None,
        bitmap: None,
        auto_dismiss: true,
    };
    schema.check_command(noting());
    schema.check_command(DirtyBitmapRemove(bitmap()));
    schema.check_command(keeping());
    let merge = DirtyBitmapMerge { node: text(), target: text(), bitmaps: vec![bitmap()] };
    schema.check_command(merge.clone());
    schema.check_command(DirtyBitmapClear(bitmap()));
    let actions = vec![
        TransactionAction::BlockDirtyBitmapDisable(bitmap()),
        TransactionAction::BlockDirtyBitmapMerge(merge),
        TransactionAction::BlockDirtyBitmapClear(bitmap()),
        TransactionAction::BlockDirtyBitmapRemove(bitmap()),
        TransactionAction::BlockDirtyBitmapAdd(noting()),
        TransactionAction::BlockdevBackup(keeping()),
    ];
    schema.check_command(Transaction { actions });
    schema.check_command(QueryBlockExports {});
    schema.check_command(BlockExportDel { id: text(), mode: "hard".to_owned() });
    let addr = SocketAddressLegacy::Unix(UnixAddress { path: text() });
    schema.check_command(NbdServerStart { addr, tls_creds: None, tls_authz: None });
    let addr = SocketAddressLegacy::Inet(address());
    schema.check_command(NbdServerStart { addr, tls_creds: Some(text()), tls_authz: Some(text()) });
    schema.check_command(BlockExportAdd::Nbd {
        id: text(),
        node_name: text(),
        name: text(),
        writable: true,
        bitmaps: vec![text()],
    });
    for capability in ["events", "return-path", "pause-before-switchover", "postcopy-ram"] {
        let capability = MigrationCapability { capability: capability.to_owned(), state: true };
        schema.check_command(MigrateSetCapabilities { capabilities: vec![capability] });
    }
    schema.check_command(MigrateSetParameters {
        max_bandwidth: Some(1),
        max_postcopy_bandwidth: Some(1),
        downtime_limit: Some(1),
        announce_initial: Some(1),
        announce_max: Some(1),
        announce_rounds: Some(1),
        announce_step: Some(1),
        tls_creds: Some(text()),
        tls_hostname: Some(text()),
        tls_authz: Some(text()),
    });
    schema.check_command(Migrate { uri: text(), resume: Some(true) });
    schema.check_command(MigrateRecover { uri: text() });
    schema.check_command(MigratePause {});
    schema.check_command(MigrateIncoming { uri: text() });
    schema.check_command(MigrateContinue { state: ContinueFrom::PreSwitchover });
    schema
        .check_command(QueryCpuModelExpansion { expansion: CpuModelExpansion::Full, model: CpuModel { name: text() } });
}
