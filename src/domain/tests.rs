//! Why: the catalogue's rules, each with a test that can fail, over a store without a disk. Never sleeps and never leaves the process.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;

use super::*;
use crate::{
    connectors::{
        connector::{ConnectContext, Connector, Descriptor, Epoch, Guarantee, Guide, Kind, Mark, Opened, Probe, SinkKind, StreamId, Terms},
        credential::CredentialType,
        destination::Destination,
        egress::EgressPolicy,
        error::{ConnectorError, ConnectorErrorKind},
        local::Local,
        options::{COMMON, OptionSpec, OptionType, Options},
    },
    delivery::{Counts, Directive, Durable, Kept, LiveSession, Progress, Source, Which, Window, WriterIdentity},
    name::StreamName,
    problem::Code,
    record::{Column, ColumnType, Payload, RecordSchema},
    store::memory::MemoryStore,
    vault::{KeyRing, KeySource},
};

/// Sessions that are only talked about.
#[derive(Debug, Default)]
struct Fake {
    live: Mutex<Vec<LiveSession>>,
    told: Mutex<Vec<(Which, Directive)>>,
}

impl Sessions for Fake {
    fn direct(&self, which: &Which, directive: Directive) -> usize {
        self.told.lock().expect("unpoisoned").push((which.clone(), directive));
        1
    }
    fn live(&self) -> Vec<LiveSession> {
        self.live.lock().expect("unpoisoned").clone()
    }
}

/// A kind that takes any destination, and a secret option.
#[derive(Debug)]
struct Anything;

static ANYTHING: Descriptor = Descriptor {
    kind: SinkKind::Jdbc,
    schemes: &["jdbc"],
    example_destination: "jdbc://host/db",
    options: &[COMMON[0], COMMON[1], COMMON[2], COMMON[3], COMMON[4], OptionSpec::new("inline_secret", OptionType::Text, "A secret.").secret()],
    credential_types: &[CredentialType::Jdbc],
    guarantee: Guarantee::AtLeastOnce,
    commit_on_finish: false,
    unavailable: None,
    guide: Guide::NONE,
};

impl Kind for Anything {
    fn descriptor(&self) -> &'static Descriptor {
        &ANYTHING
    }
    fn configure(&self, _: &Destination, _: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        Ok(Arc::new(Self))
    }
}

#[async_trait]
impl Connector for Anything {
    fn accepts(&self, _: CredentialType) -> bool {
        true
    }
    async fn probe(&self, cx: &ConnectContext, _: bool) -> Probe {
        Probe { steps: Vec::new(), checked: cx.ambient.now() }
    }
    async fn open(&self, _: &ConnectContext, _: &StreamId, _: Epoch, _: &Terms) -> Result<Opened, ConnectorError> {
        Err(ConnectorError::new(ConnectorErrorKind::Misconfigured, "this kind is only looked at"))
    }
}

struct World {
    domain: Domain,
    sessions: Arc<Fake>,
    store: SharedStore,
    _folder: tempfile::TempDir,
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

fn cx(principal: &str) -> OpContext {
    OpContext {
        caller: Caller { principal: name(principal), source: IdentitySource::Token, identity: "tok".to_owned(), expires: None },
        default_schema: None,
        peer: "10.0.0.9:4000".to_owned(),
        rpc: "Test/Call",
        call_id: "call".to_owned(),
    }
}

async fn start(store: SharedStore, folder: &std::path::Path, sessions: Arc<Fake>) -> Domain {
    let ambient = Ambient::system();
    let key = format!("k:{}", "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=");
    let vault = Vault::new(KeyRing::load(&KeySource::Text(secret(&key)), &*ambient.ids).expect("a ring"));
    let rows = Rows::new(store.clone(), 1 << 30);
    let kinds = Kinds::standard(Local::new(rows.clone(), Arc::new(Tables::new(store.clone())))).with(Arc::new(Anything));
    let parts = DomainParts {
        progress: Arc::new(KeptProgress::new(store.clone())),
        egress: Arc::new(Egress::new(EgressPolicy::default(), &[]).expect("an egress filter")),
        audit: folder.join("audit.log"),
        settings: Settings { passwords: PasswordCost { memory_kib: 64, passes: 1, at_once: 2 }, ..Settings::default() },
        store,
        vault,
        kinds,
        ambient,
        rows,
        sessions,
    };
    Domain::start(parts).await.expect("starts")
}

async fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let store: SharedStore = Arc::new(MemoryStore::new());
    let sessions = Arc::new(Fake::default());
    let domain = start(store.clone(), folder.path(), sessions.clone()).await;
    World { domain, sessions, store, _folder: folder }
}

impl World {
    async fn user(&self, user: &str) {
        let request = CreatePrincipal {
            name: user.to_owned(),
            kind: Some(PrincipalKind::User),
            identities: Vec::new(),
            default_schema: String::new(),
            if_not_exists: false,
            request_id: String::new(),
            password: None,
        };
        self.domain.create_principal(&cx("admin"), request).await.expect("a user");
    }

    async fn role(&self, role: &str) {
        let request = CreatePrincipal {
            name: role.to_owned(),
            kind: Some(PrincipalKind::Role),
            identities: Vec::new(),
            default_schema: String::new(),
            if_not_exists: false,
            request_id: String::new(),
            password: None,
        };
        self.domain.create_principal(&cx("admin"), request).await.expect("a role");
    }

    async fn grant(
        &self,
        by: &str,
        to: &str,
        object_type: ObjectType,
        object: &str,
        permission: Permission,
        option: bool,
    ) -> Result<GrantedPermission, Problem> {
        let request = GrantPermission {
            principal: to.to_owned(),
            object_type: Some(object_type),
            object: object.to_owned(),
            permission: Some(permission),
            with_grant_option: option,
            request_id: String::new(),
        };
        self.domain.grant_permission(&cx(by), request).await
    }

    async fn revoke(&self, by: &str, from: &str, object_type: ObjectType, object: &str, permission: Permission) -> Result<Changed, Problem> {
        let request = RevokePermission {
            principal: from.to_owned(),
            object_type: Some(object_type),
            object: object.to_owned(),
            permission: Some(permission),
            if_exists: false,
            request_id: String::new(),
        };
        self.domain.revoke_permission(&cx(by), request).await
    }

    async fn table(&self, by: &str, table: &str) -> TableView {
        let request = CreateTable { name: table.to_owned(), schema: columns(), ..CreateTable::default() };
        self.domain.create_table(&cx(by), request).await.expect("a table").table
    }

    async fn sink(&self, by: &str, sink: &str, destination: &str, options: &[(&str, &str)]) -> Result<CreatedDataSink, Problem> {
        self.domain.create_data_sink(&cx(by), sink_request(sink, destination, options)).await
    }

    async fn credential(&self, by: &str, credential: &str, value: &str) -> CredentialView {
        self.domain.create_credential(&cx(by), credential_request(credential, value)).await.expect("a credential").credential
    }

    fn told(&self) -> Vec<(Which, Directive)> {
        std::mem::take(&mut *self.sessions.told.lock().expect("unpoisoned"))
    }

    fn open_session(&self, sink: &DataSinkView, principal: &str) {
        let stream = StreamId { cluster: self.domain.cluster(), sink: sink.uid, name: StreamName::parse("s").expect("a stream") };
        let session = LiveSession {
            stream,
            sink: crate::delivery::SinkSnapshot {
                name: sink.name.clone(),
                uid: sink.uid,
                generation: sink.generation,
                destination_generation: 1,
                kind: sink.kind,
                destination: sink.destination.clone(),
            },
            writer: WriterIdentity { principal: principal.to_owned(), client_id: "c".to_owned(), peer: "p".to_owned() },
            epoch: Epoch(1),
            guarantee: Guarantee::ExactlyOnce,
            next_offset: 0,
            counts: Counts::default(),
            outstanding: Window::default(),
            destination: None,
            opened: Timestamp::default(),
            acknowledged: None,
        };
        self.sessions.live.lock().expect("unpoisoned").push(session);
    }
}

fn columns() -> RecordSchema {
    let column = |name: &str, column_type, primary_key: bool| Column { name: name.to_owned(), column_type, nullable: !primary_key, max_length: 0, primary_key };
    RecordSchema { columns: vec![column("id", ColumnType::Int64, true), column("name", ColumnType::String, false)] }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn sink_request(sink: &str, destination: &str, options: &[(&str, &str)]) -> CreateDataSink {
    CreateDataSink { name: sink.to_owned(), destination: destination.to_owned(), options: map(options), ..CreateDataSink::default() }
}

fn credential_request(credential: &str, value: &str) -> CreateCredential {
    CreateCredential {
        name: credential.to_owned(),
        credential_type: Some(CredentialType::Rest),
        identity: "svc".to_owned(),
        secret: Some(SecretSource::Inline(secret(value))),
        options: BTreeMap::new(),
        or_replace: false,
        if_not_exists: false,
        validate_only: false,
        request_id: String::new(),
    }
}

fn drop_credential(credential: &str) -> DropCredential {
    DropCredential { name: credential.to_owned(), ..DropCredential::default() }
}

fn drop_sink(sink: &str) -> DropDataSink {
    DropDataSink { name: sink.to_owned(), ..DropDataSink::default() }
}

fn alter_sink(sink: &str, updates: &[(&str, &str)]) -> AlterDataSink {
    AlterDataSink { name: sink.to_owned(), updates: map(updates), ..AlterDataSink::default() }
}

fn show_sink(sink: &str) -> ShowDataSink {
    ShowDataSink { name: sink.to_owned(), ..ShowDataSink::default() }
}

fn ndjson(text: &str) -> Payload {
    Payload::Ndjson(text.as_bytes().to_vec().into())
}

const HTTPS: &str = "https://receiver.example/hook";
const UNCHECKED: &[(&str, &str)] = &[("skip_validation", "true")];

#[tokio::test]
async fn a_catalogue_is_furnished_once_and_found_again() {
    let world = world().await;
    assert!(world.domain.needs_bootstrap().await.expect("known"));
    let mut kept = Vec::new();
    world
        .domain
        .bootstrap_token(|token| {
            kept = token.expose().to_vec();
            Ok(())
        })
        .await
        .expect("made");
    assert!(!world.domain.needs_bootstrap().await.expect("known"));
    let again = start(world.store.clone(), world._folder.path(), Arc::new(Fake::default())).await;
    assert_eq!(again.cluster(), world.domain.cluster());
    let caller = again.authenticate(Presented::Bearer(Secret::new(kept)), "1.2.3.4:5").await.expect("proved");
    assert_eq!((caller.principal, caller.source), (name("admin"), IdentitySource::Token));
    let schemas = again.show_schema(&cx("admin"), ShowSchema::default()).await.expect("shown").schemas;
    assert_eq!(schemas.iter().map(|schema| schema.name.as_str()).collect::<Vec<_>>(), ["default"]);
}

#[tokio::test]
async fn a_credential_that_no_request_could_carry_is_refused_as_it_is_made_and_altered() {
    let world = world().await;
    let broken = CreateCredential {
        identity: String::new(),
        secret: None,
        options: map(&[("header_name", "Host"), ("header_value", "canary\n"), ("signing_secret", "canary")]),
        ..credential_request("c", "")
    };
    let refused = world.domain.create_credential(&cx("admin"), broken).await.expect_err("no such header");
    let fields: Vec<_> = refused.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["options[\"signing_secret\"]", "options[\"header_name\"]", "options[\"header_value\"]"]);
    assert!(!format!("{refused:?}").contains("canary"));
    world.domain.create_credential(&cx("admin"), credential_request("c", "fine")).await.expect("made");
    let alter = AlterCredential {
        name: "c".to_owned(),
        credential_type: None,
        identity: Some("us:er".to_owned()),
        secret: None,
        updates: BTreeMap::new(),
        unset: Vec::new(),
        schema_name: None,
        etag: String::new(),
        validate_only: true,
        request_id: String::new(),
    };
    let refused = world.domain.alter_credential(&cx("admin"), alter).await.expect_err("no such user");
    assert_eq!(refused.violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), ["identity"]);
}

#[tokio::test]
async fn a_bootstrap_token_that_could_not_be_written_is_not_valid() {
    let world = world().await;
    world.domain.bootstrap_token(|_| Err(std::io::Error::other("disk full"))).await.expect_err("refused");
    assert!(world.domain.needs_bootstrap().await.expect("known"));
}

#[tokio::test]
async fn local_sinks_need_insert_and_get_their_schema() {
    let world = world().await;
    world.user("alice").await;
    world.table("admin", "t").await;
    world.grant("admin", "alice", ObjectType::DataSink, "default", Permission::Create, false).await.expect("granted");
    let denied = world.sink("alice", "s", "table://t", &[]).await.expect_err("no insert");
    assert_eq!((denied.code, denied.reason), (Code::PermissionDenied, Reason::PermissionDenied));
    world.grant("admin", "alice", ObjectType::Table, "t", Permission::Insert, false).await.expect("granted");
    let sink = world.sink("alice", "s", "table://t", &[]).await.expect("made").data_sink;
    assert_eq!((sink.destination.as_str(), sink.name.to_string().as_str(), sink.kind), ("table://default.t", "default.s", SinkKind::Local));
    assert!(sink.last_check.expect("checked").passed());
    let missing = world.sink("admin", "s2", "table://none", &[]).await.expect_err("no such table");
    assert_eq!((missing.code, missing.reason), (Code::FailedPrecondition, Reason::TableNotFound));
    let used = world.domain.drop_table(&cx("admin"), DropTable { name: "t".to_owned(), ..DropTable::default() }).await.expect_err("in use");
    assert_eq!((used.reason, used.preconditions[0].subject.as_str()), (Reason::InUse, "data sink default.s"));
    world.domain.drop_data_sink(&cx("alice"), drop_sink("s")).await.expect("dropped");
    world.domain.drop_table(&cx("admin"), DropTable { name: "t".to_owned(), ..DropTable::default() }).await.expect("dropped");
}

#[tokio::test]
async fn nobody_learns_whether_an_object_exists() {
    let world = world().await;
    world.user("mallory").await;
    world.credential("admin", "secret_cred", "x").await;
    world.table("admin", "t").await;
    world.sink("admin", "s", "table://t", &[]).await.expect("made");
    let same = |there: Problem, absent: Problem, name: &str| {
        assert_eq!(there.code, Code::PermissionDenied);
        assert_eq!(there.message.replace(name, "_"), absent.message.replace("default.absent", "_"));
        assert_eq!((there.reason, there.preconditions, there.resource), (absent.reason, absent.preconditions, absent.resource));
    };
    let domain = &world.domain;
    let who = cx("mallory");
    let show = |sink| domain.show_data_sink(&who, show_sink(sink));
    same(show("default.s").await.expect_err("denied"), show("default.absent").await.expect_err("denied"), "default.s");
    let drop = |sink| domain.drop_data_sink(&who, drop_sink(sink));
    same(drop("default.s").await.expect_err("denied"), drop("default.absent").await.expect_err("denied"), "default.s");
    let alter = |sink| domain.alter_data_sink(&who, alter_sink(sink, &[("wait_timeout", "5")]));
    same(alter("default.s").await.expect_err("denied"), alter("default.absent").await.expect_err("denied"), "default.s");
    let credential = |credential| domain.drop_credential(&who, drop_credential(credential));
    same(credential("secret_cred").await.expect_err("denied"), credential("absent").await.expect_err("denied"), "default.secret_cred");
    let open = |sink: &str| domain.open_stream(&who, OpenStream { data_sink: sink.to_owned(), ..OpenStream::default() });
    same(open("default.s").await.expect_err("denied"), open("default.absent").await.expect_err("denied"), "default.s");
    assert!(domain.show_data_sink(&who, show_sink("*")).await.expect("a list").data_sinks.is_empty());
    let absent = domain.show_data_sink(&cx("admin"), show_sink("absent")).await.expect_err("absent");
    assert_eq!((absent.code, absent.reason), (Code::NotFound, Reason::DataSinkNotFound));
}

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    let world = world().await;
    let made = world.credential("admin", "c", "canary-one").await;
    assert!(made.secret_set && made.secret_version == 1);
    world.credential("admin", "e", "canary-two").await;
    let mut request = CreateCredential { identity: String::new(), secret: None, ..credential_request("d", "") };
    request.options = map(&[("header_name", "X-Key"), ("header_value", "canary-three")]);
    let made = world.domain.create_credential(&cx("admin"), request).await.expect("made").credential;
    assert_eq!(made.options, map(&[("header_name", "X-Key"), ("header_value", "***")]));
    let options = [("skip_validation", "true"), ("inline_secret", "canary-five")];
    let sink = world.sink("admin", "s", "jdbc://user:canary-four@host/db", &options).await.expect("made").data_sink;
    assert_eq!((sink.destination.as_str(), sink.options["inline_secret"].as_str()), ("jdbc://***@host/db", "***"));
    for table in CATALOGUE_TABLES {
        for (_, value) in world.store.scan(table, b"", None, 1_000).await.expect("read") {
            assert!(!String::from_utf8_lossy(&value).contains("canary"), "in the clear in {}", table.name);
        }
    }
    assert!(!std::fs::read_to_string(world.domain.audit_path()).expect("a log").contains("canary"));
    let row: credential::CredentialRow = world.domain.row(b"default.d").await.expect("read").expect("there");
    let open = world.domain.open_credential(&row).await.expect("opens");
    assert!(open.secret.is_none());
    let row: credential::CredentialRow = world.domain.row(b"default.e").await.expect("read").expect("there");
    assert_eq!(world.domain.open_credential(&row).await.expect("opens").secret.expect("set").expose(), b"canary-two");
    assert_eq!(open.secret_options["header_value"].expose(), b"canary-three");
    // An alter that does not speak of them keeps them, sealed under the sink's new place.
    world.domain.create_schema(&cx("admin"), CreateSchema { name: "other".to_owned(), ..CreateSchema::default() }).await.expect("made");
    world.domain.alter_data_sink(&cx("admin"), alter_sink("s", &[("wait_timeout", "5"), ("schema_name", "other")])).await.expect("altered");
    let row: data_sink::SinkRow = world.domain.row(b"other.s").await.expect("read").expect("moved");
    let configured = world.domain.stored(&row).await.expect("opens");
    assert_eq!((configured.options.text("inline_secret"), row.destination_generation), (Some("canary-five"), 1));
}

#[tokio::test]
async fn a_rotated_credential_has_a_new_version_and_its_sinks_reconnect() {
    let world = world().await;
    world.credential("admin", "c", "one").await;
    let sink = world.sink("admin", "s", HTTPS, &[("skip_validation", "true"), ("credential", "c")]).await.expect("made").data_sink;
    world.told();
    let request = AlterCredential {
        name: "c".to_owned(),
        credential_type: None,
        identity: None,
        secret: Some(SecretSource::Inline(secret("two"))),
        updates: BTreeMap::new(),
        unset: Vec::new(),
        schema_name: None,
        etag: String::new(),
        validate_only: false,
        request_id: String::new(),
    };
    let altered = world.domain.alter_credential(&cx("admin"), request).await.expect("altered");
    assert!(altered.changed && altered.credential.secret_version == 2 && altered.credential.generation == 2);
    let told = world.told();
    assert!(told.iter().any(|(which, directive)| matches!((which, directive), (Which::Sink(uid), Directive::Reconnect) if *uid == sink.uid)), "{told:?}");
    let row: credential::CredentialRow = world.domain.row(b"default.c").await.expect("read").expect("there");
    assert_eq!(world.domain.open_credential(&row).await.expect("opens").secret.expect("set").expose(), b"two");
    let used = world.domain.drop_credential(&cx("admin"), drop_credential("c")).await.expect_err("in use");
    assert_eq!((used.reason, used.preconditions.len()), (Reason::InUse, 1));
    let moved = AlterCredential { secret: None, schema_name: Some("other".to_owned()), ..credential_change("c") };
    world.domain.create_schema(&cx("admin"), CreateSchema { name: "other".to_owned(), ..CreateSchema::default() }).await.expect("made");
    world.domain.alter_credential(&cx("admin"), moved).await.expect("moved");
    let row: credential::CredentialRow = world.domain.row(b"other.c").await.expect("read").expect("there");
    assert_eq!(world.domain.open_credential(&row).await.expect("sealed anew").secret.expect("set").expose(), b"two");
    let shown = world.domain.show_data_sink(&cx("admin"), show_sink("s")).await.expect("shown").data_sinks;
    assert_eq!(shown[0].credential.as_ref().expect("used").to_string(), "other.c");
}

fn credential_change(credential: &str) -> AlterCredential {
    AlterCredential {
        name: credential.to_owned(),
        credential_type: None,
        identity: None,
        secret: None,
        updates: BTreeMap::new(),
        unset: Vec::new(),
        schema_name: None,
        etag: String::new(),
        validate_only: false,
        request_id: String::new(),
    }
}

#[tokio::test]
async fn repointing_a_sink_asks_for_its_credential_again() {
    let world = world().await;
    world.user("alice").await;
    world.credential("admin", "c", "one").await;
    world.sink("admin", "s", HTTPS, &[("skip_validation", "true"), ("credential", "c")]).await.expect("made");
    world.grant("admin", "alice", ObjectType::DataSink, "s", Permission::Admin, false).await.expect("granted");
    world.domain.alter_data_sink(&cx("alice"), alter_sink("s", &[("wait_timeout", "5")])).await.expect("harmless");
    let stolen = world.domain.alter_data_sink(&cx("alice"), alter_sink("s", &[("destination", "https://mallory.example/")])).await.expect_err("refused");
    assert_eq!(stolen.reason, Reason::PermissionDenied);
    assert!(stolen.metadata.contains(&("object_type", "credential".to_owned())));
    world.grant("admin", "alice", ObjectType::Credential, "c", Permission::Read, false).await.expect("granted");
    let altered = world.domain.alter_data_sink(&cx("alice"), alter_sink("s", &[("destination", "https://other.example/")])).await.expect("altered");
    assert!(altered.changed);
    let row: data_sink::SinkRow = world.domain.row(b"default.s").await.expect("read").expect("there");
    assert_eq!((row.head.generation, row.destination_generation), (3, 3));
}

#[tokio::test]
async fn every_fault_of_a_sink_is_told_at_once() {
    let world = world().await;
    let problem = world
        .sink("admin", "bad.na.me", HTTPS, &[("max_batch_sise", "1"), ("max_batch_size", "none"), ("connection_timeout", "0")])
        .await
        .expect_err("refused");
    let fields: Vec<&str> = problem.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["name", "options[\"connection_timeout\"]", "options[\"max_batch_sise\"]", "options[\"max_batch_size\"]"]);
    let unknown = world.sink("admin", "s", HTTPS, &[("max_batch_sise", "1")]).await.expect_err("refused");
    assert_eq!(unknown.reason, Reason::UnknownOption);
    assert!(unknown.metadata.contains(&("did_you_mean", "max_batch_size".to_owned())));
    let scheme = world.sink("admin", "s", "ftp://x", &[]).await.expect_err("refused");
    assert_eq!(scheme.reason, Reason::InvalidDestination);
    let kind = world.sink("admin", "s", "hdfs://h:8020", &[]).await.expect_err("refused");
    assert_eq!((kind.code, kind.reason), (Code::Unimplemented, Reason::KindUnsupported));
    let nothing = world.domain.alter_data_sink(&cx("admin"), alter_sink("s", &[])).await.expect_err("refused");
    assert_eq!(nothing.reason, Reason::NothingToAlter);
}

#[tokio::test]
async fn a_sink_that_cannot_connect_is_not_made() {
    let world = world().await;
    // Loopback is not where webhooks normally live: the address filter refuses it before anything is sent.
    let problem = world.sink("admin", "s", "http://127.0.0.1:9/", &[]).await.expect_err("refused");
    assert_eq!(problem.code, Code::FailedPrecondition);
    assert!(problem.metadata.iter().any(|(key, _)| *key == "step"), "{problem:?}");
    let absent = world.domain.show_data_sink(&cx("admin"), show_sink("s")).await.expect_err("not made");
    assert_eq!(absent.reason, Reason::DataSinkNotFound);
    world.sink("admin", "s", "http://127.0.0.1:9/", UNCHECKED).await.expect("made unseen");
    let probe = world.domain.test_data_sink(&cx("admin"), TestDataSink { name: "s".to_owned(), ..TestDataSink::default() }).await.expect("steps");
    assert!(!probe.passed());
    let shown = world.domain.show_data_sink(&cx("admin"), show_sink("s")).await.expect("shown").data_sinks;
    assert!(!shown[0].last_check.as_ref().expect("noted").passed());
}

#[tokio::test]
async fn wrong_credentials_for_a_sink_are_preconditions() {
    let world = world().await;
    let mut request = credential_request("k", "x");
    request.credential_type = Some(CredentialType::Jdbc);
    world.domain.create_credential(&cx("admin"), request).await.expect("made");
    let wrong = world.sink("admin", "s", HTTPS, &[("skip_validation", "true"), ("credential", "k")]).await.expect_err("refused");
    assert_eq!((wrong.code, wrong.reason), (Code::FailedPrecondition, Reason::CredentialTypeMismatch));
    let absent = world.sink("admin", "s", HTTPS, &[("skip_validation", "true"), ("credential", "none")]).await.expect_err("refused");
    assert_eq!((absent.code, absent.reason), (Code::FailedPrecondition, Reason::CredentialNotFound));
    assert!(absent.metadata.contains(&("referred_by", "default.s".to_owned())));
}

#[tokio::test]
async fn a_request_id_makes_a_call_happen_once() {
    let world = world().await;
    world.table("admin", "t").await;
    let id = "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11".to_owned();
    let request = CreateDataSink { request_id: id.clone(), ..sink_request("s", "table://t", &[]) };
    let first = world.domain.create_data_sink(&cx("admin"), request.clone()).await.expect("made");
    let again = world.domain.create_data_sink(&cx("admin"), request.clone()).await.expect("the same answer");
    assert_eq!((first.data_sink.uid, again.created), (again.data_sink.uid, true));
    let other = world.domain.create_data_sink(&cx("admin"), CreateDataSink { name: "s2".to_owned(), ..request }).await.expect_err("reused");
    assert_eq!(other.reason, Reason::RequestIdReused);
    let bad = CreateDataSink { request_id: "not a uuid".to_owned(), ..sink_request("s3", "table://t", &[]) };
    assert_eq!(world.domain.create_data_sink(&cx("admin"), bad).await.expect_err("refused").reason, Reason::InvalidField);
    let token = CreateAccessToken { request_id: id.replace('6', "7"), ..CreateAccessToken::default() };
    let made = world.domain.create_access_token(&cx("admin"), token.clone()).await.expect("made");
    let repeated = world.domain.create_access_token(&cx("admin"), token).await.expect("the entry");
    assert!(made.token.is_some() && repeated.token.is_none());
    assert_eq!(made.access_token, repeated.access_token);
    let rows = |request_id: String| InsertRows {
        table: "t".to_owned(),
        payload: ndjson("{\"id\":1,\"name\":\"Ada\"}\n"),
        record_count: 1,
        on_conflict: OnConflict::Error,
        request_id,
    };
    let inserted = world.domain.insert_rows(&cx("admin"), rows(id.replace('6', "8"))).await.expect("inserted");
    assert_eq!(inserted, world.domain.insert_rows(&cx("admin"), rows(id.replace('6', "8"))).await.expect("the same answer"));
    assert_eq!(world.domain.insert_rows(&cx("admin"), rows(String::new())).await.expect_err("there already").reason, Reason::AlreadyExists);
}

#[tokio::test]
async fn lists_come_in_pages_that_belong_to_their_question() {
    let world = world().await;
    for number in 0..5 {
        world.credential("admin", &format!("c{number}"), "x").await;
    }
    let ask = |token: String, name: &str| ShowCredential { name: name.to_owned(), page: Page { size: 2, token }, ..ShowCredential::default() };
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = world.domain.show_credential(&cx("admin"), ask(token, "*")).await.expect("a page");
        assert!(page.credentials.len() <= 2);
        names.extend(page.credentials.into_iter().map(|credential| credential.name.to_string()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["default.c0", "default.c1", "default.c2", "default.c3", "default.c4"]);
    let first = world.domain.show_credential(&cx("admin"), ask(String::new(), "*")).await.expect("a page");
    let foreign = world.domain.show_credential(&cx("admin"), ask(first.next_page_token, "default.*")).await.expect_err("another question");
    assert_eq!(foreign.reason, Reason::InvalidPageToken);
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let world = world().await;
    let made = futures::future::join_all((0..12).map(|_| {
        let domain = world.domain.clone();
        async move { domain.create_credential(&cx("admin"), credential_request("same", "x")).await }
    }))
    .await;
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(made.iter().filter_map(|result| result.as_ref().err()).all(|problem| problem.reason == Reason::AlreadyExists));
    let others = futures::future::join_all((0..12).map(|number| {
        let domain = world.domain.clone();
        async move { domain.create_credential(&cx("admin"), credential_request(&format!("n{number}"), "x")).await }
    }))
    .await;
    assert!(others.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_stale_etag_changes_nothing() {
    let world = world().await;
    let made = world.credential("admin", "c", "one").await;
    let change = AlterCredential { identity: Some("two".to_owned()), etag: made.etag.clone(), ..credential_change("c") };
    world.domain.alter_credential(&cx("admin"), change).await.expect("altered");
    let stale = AlterCredential { identity: Some("three".to_owned()), etag: made.etag.clone(), ..credential_change("c") };
    let problem = world.domain.alter_credential(&cx("admin"), stale).await.expect_err("stale");
    assert_eq!((problem.code, problem.reason), (Code::Aborted, Reason::EtagMismatch));
    let dry = AlterCredential { identity: Some("four".to_owned()), validate_only: true, ..credential_change("c") };
    assert!(world.domain.alter_credential(&cx("admin"), dry).await.expect("would work").changed);
    let shown = world.domain.show_credential(&cx("admin"), ShowCredential { name: "c".to_owned(), ..ShowCredential::default() }).await.expect("shown");
    assert_eq!((shown.credentials[0].identity.as_str(), shown.credentials[0].generation), ("two", 2));
}

#[tokio::test]
async fn a_recreated_object_starts_without_grants() {
    let world = world().await;
    world.user("alice").await;
    world.credential("admin", "c", "x").await;
    world.grant("admin", "alice", ObjectType::Credential, "c", Permission::Read, false).await.expect("granted");
    let who = cx("alice");
    let ask = ShowCredential { name: "default.c".to_owned(), ..ShowCredential::default() };
    world.domain.show_credential(&who, ask.clone()).await.expect("seen");
    world.domain.drop_credential(&cx("admin"), drop_credential("c")).await.expect("dropped");
    world.credential("admin", "c", "x").await;
    assert_eq!(world.domain.show_credential(&who, ask).await.expect_err("a new object").reason, Reason::PermissionDenied);
}

#[tokio::test]
async fn revoking_what_others_rest_on_is_refused_until_they_are_gone() {
    let world = world().await;
    for user in ["alice", "bob"] {
        world.user(user).await;
    }
    world.credential("admin", "c", "x").await;
    world.grant("admin", "alice", ObjectType::Credential, "c", Permission::Read, true).await.expect("granted");
    world.grant("alice", "bob", ObjectType::Credential, "default.c", Permission::Read, false).await.expect("given on");
    let more = world.grant("alice", "bob", ObjectType::Credential, "default.c", Permission::Admin, false).await.expect_err("more than she has");
    assert_eq!(more.reason, Reason::PermissionDenied);
    let problem = world.revoke("admin", "alice", ObjectType::Credential, "c", Permission::Read).await.expect_err("bob rests on it");
    assert_eq!((problem.reason, problem.preconditions.len()), (Reason::InUse, 1));
    world.revoke("alice", "bob", ObjectType::Credential, "default.c", Permission::Read).await.expect("revoked");
    world.revoke("admin", "alice", ObjectType::Credential, "c", Permission::Read).await.expect("revoked");
    let none = world.revoke("admin", "alice", ObjectType::Credential, "c", Permission::Read).await.expect_err("gone");
    assert_eq!(none.reason, Reason::GrantNotFound);
}

#[tokio::test]
async fn sessions_end_when_their_right_does() {
    let world = world().await;
    for user in ["alice", "bob"] {
        world.user(user).await;
    }
    world.role("writers").await;
    world.table("admin", "t").await;
    let sink = world.sink("admin", "s", "table://t", &[]).await.expect("made").data_sink;
    world.grant("admin", "writers", ObjectType::DataSink, "s", Permission::Connect, false).await.expect("granted");
    let request = GrantRole { role: "writers".to_owned(), member: "alice".to_owned(), request_id: String::new() };
    world.domain.grant_role(&cx("admin"), request).await.expect("a member");
    world.open_session(&sink, "alice");
    let stops = |world: &World| {
        world.told().into_iter().filter(|(_, directive)| matches!(directive, Directive::Stop(problem) if problem.reason == Reason::PermissionDenied)).count()
    };
    world.grant("admin", "bob", ObjectType::DataSink, "s", Permission::Connect, false).await.expect("granted");
    world.revoke("admin", "bob", ObjectType::DataSink, "s", Permission::Connect).await.expect("revoked");
    assert_eq!(stops(&world), 0, "another's right");
    let request = RevokeRole { role: "writers".to_owned(), member: "alice".to_owned(), ..RevokeRole::default() };
    world.domain.revoke_role(&cx("admin"), request).await.expect("revoked");
    assert_eq!(stops(&world), 1);
    world.domain.drop_data_sink(&cx("admin"), drop_sink("s")).await.expect("dropped");
    assert!(world.told().iter().any(|(_, directive)| matches!(directive, Directive::Stop(problem) if problem.reason == Reason::DataSinkNotFound)));
}

#[tokio::test]
async fn roles_do_not_go_in_circles_and_built_ins_stay() {
    let world = world().await;
    for role in ["a", "b", "c"] {
        world.role(role).await;
    }
    let give = |role: &str, member: &str| GrantRole { role: role.to_owned(), member: member.to_owned(), request_id: String::new() };
    world.domain.grant_role(&cx("admin"), give("a", "b")).await.expect("a member");
    world.domain.grant_role(&cx("admin"), give("b", "c")).await.expect("a member");
    for (role, member) in [("c", "a"), ("a", "a"), ("b", "a")] {
        assert_eq!(world.domain.grant_role(&cx("admin"), give(role, member)).await.expect_err("a circle").reason, Reason::InvalidField, "{role} to {member}");
    }
    for built_in in ["admin", "public"] {
        let problem =
            world.domain.drop_principal(&cx("admin"), DropPrincipal { name: built_in.to_owned(), ..DropPrincipal::default() }).await.expect_err("stays");
        assert_eq!(problem.code, Code::FailedPrecondition);
    }
    let for_good = world.revoke("admin", "admin", ObjectType::System, "", Permission::Admin).await.expect_err("for good");
    assert_eq!(for_good.code, Code::FailedPrecondition);
}

#[tokio::test]
async fn who_administers_users_does_not_reach_the_system() {
    let world = world().await;
    for user in ["clerk", "bob"] {
        world.user(user).await;
    }
    world.grant("admin", "clerk", ObjectType::System, "", Permission::UserAdmin, false).await.expect("granted");
    let admins_password = AlterPrincipal { name: "admin".to_owned(), password: Some(secret("mine")), ..AlterPrincipal::default() };
    assert_eq!(world.domain.alter_principal(&cx("clerk"), admins_password).await.expect_err("refused").reason, Reason::PermissionDenied);
    let admins_token = CreateAccessToken { principal: "admin".to_owned(), ..CreateAccessToken::default() };
    assert_eq!(world.domain.create_access_token(&cx("clerk"), admins_token).await.expect_err("refused").reason, Reason::PermissionDenied);
    for (to, permission) in [("bob", Permission::Admin), ("bob", Permission::UserAdmin), ("clerk", Permission::Write)] {
        assert_eq!(world.grant("clerk", to, ObjectType::System, "", permission, false).await.expect_err("refused").reason, Reason::PermissionDenied);
    }
    world.role("root_role").await;
    world.grant("admin", "root_role", ObjectType::System, "", Permission::Admin, false).await.expect("granted");
    let raise = GrantRole { role: "root_role".to_owned(), member: "bob".to_owned(), request_id: String::new() };
    assert_eq!(world.domain.grant_role(&cx("clerk"), raise).await.expect_err("refused").reason, Reason::PermissionDenied);
}

#[tokio::test]
async fn proofs_of_a_user_hold_until_they_are_taken() {
    let world = world().await;
    world.user("alice").await;
    let change = |password: Option<&str>, disabled: Option<bool>| AlterPrincipal {
        name: "alice".to_owned(),
        add_identities: vec!["spiffe://a/b".to_owned()],
        password: password.map(secret),
        disabled,
        ..AlterPrincipal::default()
    };
    world.domain.alter_principal(&cx("admin"), change(Some("open"), None)).await.expect("altered");
    let token = world.domain.create_access_token(&cx("alice"), CreateAccessToken::default()).await.expect("her own");
    let text = String::from_utf8(token.token.expect("shown once").expose().to_vec()).expect("ASCII");
    let domain = &world.domain;
    let basic = |user: &str, password: &str| Presented::Basic { user: user.to_owned(), password: secret(password) };
    let peer = "10.1.1.1:1";
    for presented in [basic("alice", "open"), Presented::Bearer(secret(&text)), Presented::Certificate("spiffe://a/b".to_owned())] {
        assert_eq!(domain.authenticate(presented, peer).await.expect("proved").principal, name("alice"));
    }
    let wrong = domain.authenticate(basic("alice", "Open"), peer).await.expect_err("wrong");
    let nobody = domain.authenticate(basic("nobody", "open"), peer).await.expect_err("nobody");
    assert_eq!(wrong, nobody, "the same answer for a wrong password and an unknown user");
    assert_eq!(domain.authenticate(Presented::Nothing, peer).await.expect_err("nothing").code, Code::Unauthenticated);
    domain.alter_principal(&cx("admin"), change(None, Some(true))).await.expect("disabled");
    for presented in [basic("alice", "open"), Presented::Bearer(secret(&text)), Presented::Certificate("spiffe://a/b".to_owned())] {
        domain.authenticate(presented, peer).await.expect_err("disabled");
    }
    domain.alter_principal(&cx("admin"), change(None, Some(false))).await.expect("enabled");
    domain.authenticate(Presented::Bearer(secret(&text)), peer).await.expect("again");
    let revoke = RevokeAccessToken { id: token.access_token.id.clone(), ..RevokeAccessToken::default() };
    domain.revoke_access_token(&cx("alice"), revoke).await.expect("revoked");
    domain.authenticate(Presented::Bearer(secret(&text)), peer).await.expect_err("revoked");
}

#[tokio::test]
async fn schemas_are_dropped_empty_or_with_all() {
    let world = world().await;
    let schema = |cascade| DropSchema { name: "other".to_owned(), cascade, ..DropSchema::default() };
    world.domain.create_schema(&cx("admin"), CreateSchema { name: "other".to_owned(), ..CreateSchema::default() }).await.expect("made");
    world.table("admin", "other.t").await;
    world.credential("admin", "other.c", "x").await;
    world.sink("admin", "other.s", "table://other.t", &[]).await.expect("made");
    let full = world.domain.drop_schema(&cx("admin"), schema(false)).await.expect_err("not empty");
    assert_eq!((full.reason, full.preconditions.len()), (Reason::SchemaNotEmpty, 3));
    world.sink("admin", "outside", "table://other.t", &[]).await.expect("made");
    let used = world.domain.drop_schema(&cx("admin"), schema(true)).await.expect_err("used from outside");
    assert_eq!((used.reason, used.preconditions.len()), (Reason::InUse, 1));
    world.domain.drop_data_sink(&cx("admin"), drop_sink("outside")).await.expect("dropped");
    assert!(world.domain.drop_schema(&cx("admin"), schema(true)).await.expect("dropped").dropped);
    assert_eq!(world.domain.show_data_sink(&cx("admin"), show_sink("other.s")).await.expect_err("gone").reason, Reason::DataSinkNotFound);
    let reserved = world.domain.create_schema(&cx("admin"), CreateSchema { name: "System".to_owned(), ..CreateSchema::default() }).await.expect_err("reserved");
    assert_eq!(reserved.reason, Reason::InvalidName);
}

#[tokio::test]
async fn rows_go_in_and_come_out_in_order_and_in_parts() {
    let world = world().await;
    world.table("admin", "t").await;
    let insert = |text: &str, on_conflict| InsertRows { table: "t".to_owned(), payload: ndjson(text), record_count: 0, on_conflict, request_id: String::new() };
    let lines = "{\"id\":2,\"name\":\"Grace\"}\n{\"id\":1,\"name\":\"Ada\"}\n{\"id\":3}\n";
    assert_eq!(world.domain.insert_rows(&cx("admin"), insert(lines, OnConflict::Error)).await.expect("inserted").inserted, 3);
    let refused =
        world.domain.insert_rows(&cx("admin"), insert("{\"id\":4}\n{\"name\":\"x\"}\n{\"id\":\"y\"}\n", OnConflict::Error)).await.expect_err("refused");
    assert_eq!((refused.reason, refused.violations.len(), refused.violations[0].field.as_str()), (Reason::RecordInvalid, 2, "batch.records[1]"));
    let scan = ScanRows { table: "t".to_owned(), columns: vec!["name".to_owned()], limit: 2, ..ScanRows::default() };
    let mut first = world.domain.scan_rows(&cx("admin"), scan.clone()).await.expect("a scan");
    assert_eq!(first.schema().columns.len(), 1);
    let part = first.next().await.expect("read").expect("rows");
    assert_eq!(texts(&part.batch), ["{\"name\":\"Ada\"}", "{\"name\":\"Grace\"}"]);
    assert!(first.next().await.expect("read").is_none());
    let mut rest = world.domain.scan_rows(&cx("admin"), ScanRows { resume_token: part.resume_token, limit: 0, ..scan }).await.expect("goes on");
    assert_eq!(texts(&rest.next().await.expect("read").expect("rows").batch), ["{}"]);
    let filter = ScanRows { table: "t".to_owned(), filter: "id > 1".to_owned(), ..ScanRows::default() };
    assert_eq!(world.domain.scan_rows(&cx("admin"), filter).await.expect_err("later").code, Code::Unimplemented);
}

fn texts(batch: &crate::record::Batch) -> Vec<String> {
    let crate::record::Records::Ndjson(lines) = &batch.records else { panic!("rows are text") };
    lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

#[tokio::test]
async fn an_open_is_resolved_with_its_dead_letters() {
    let world = world().await;
    world.user("alice").await;
    world.table("admin", "t").await;
    world.table("admin", "letters").await;
    world.sink("admin", "s", "table://t", &[]).await.expect("made");
    world.grant("admin", "alice", ObjectType::DataSink, "s", Permission::Connect, false).await.expect("granted");
    let open = |stream: &str| OpenStream {
        data_sink: "s".to_owned(),
        stream: stream.to_owned(),
        record_error_policy: Some(crate::delivery::RecordErrorPolicy::DeadLetter),
        dead_letter_sink: "table://letters".to_owned(),
        ..OpenStream::default()
    };
    assert_eq!(world.domain.open_stream(&cx("alice"), open("x")).await.expect_err("no insert on letters").reason, Reason::PermissionDenied);
    world.grant("admin", "alice", ObjectType::Table, "letters", Permission::Insert, false).await.expect("granted");
    let order = world.domain.open_stream(&cx("alice"), open("x")).await.expect("an order");
    let letters = order.dead_letters.as_ref().expect("dead letters");
    assert_eq!((letters.stream.name.as_str(), letters.sink.destination.as_str()), ("dead-letters:x", "table://default.letters"));
    let (connector, _) = order.connections.connect().await.expect("connects");
    assert_eq!(connector.table(), Some("default.t"));
    let (_, context) = letters.connections.connect().await.expect("connects");
    assert!(context.credential.is_none());
    let nameless = OpenStream { dead_letter_sink: String::new(), ..open("x") };
    assert_eq!(world.domain.open_stream(&cx("alice"), nameless).await.expect_err("nowhere to").reason, Reason::MissingOption);
    let bad = OpenStream { stream: "monitor:x".to_owned(), client_id: "\n".to_owned(), linger: Some(std::time::Duration::from_secs(3600)), ..open("") };
    assert_eq!(world.domain.open_stream(&cx("alice"), bad).await.expect_err("refused").violations.len(), 3);
}

fn kept(principal: &str, epoch: u64) -> Kept {
    Kept {
        mark: Mark { next: 5, ..Mark::default() },
        epoch: Epoch(epoch),
        planned_ends: Vec::new(),
        destination_generation: 1,
        receipts: Vec::new(),
        source: Source::Adhoc(String::new()),
        commit_mode: crate::connectors::connector::CommitMode::Continuous,
        duplicates: 0,
        delivered_bytes: 0,
        principal: principal.to_owned(),
        client_id: "c".to_owned(),
        opened: Timestamp::default(),
        acknowledged: None,
    }
}

#[tokio::test]
async fn a_stream_is_its_beginners_and_old_epochs_note_nothing() {
    let world = world().await;
    for user in ["alice", "bob"] {
        world.user(user).await;
    }
    world.table("admin", "t").await;
    let sink = world.sink("admin", "s", "table://t", &[]).await.expect("made").data_sink;
    for user in ["alice", "bob"] {
        world.grant("admin", user, ObjectType::DataSink, "s", Permission::Connect, false).await.expect("granted");
    }
    let open = OpenStream { data_sink: "s".to_owned(), stream: "x".to_owned(), takeover: true, ..OpenStream::default() };
    let order = world.domain.open_stream(&cx("alice"), open.clone()).await.expect("an order");
    let progress = world.domain.0.progress.clone();
    progress.save(&order.stream, &kept("alice", 3), Durable::Soon).await.expect("noted");
    assert_eq!(progress.load(&order.stream).await.expect("read").expect("waiting").epoch, Epoch(3));
    for durable in [Durable::Soon, Durable::Now] {
        assert_eq!(progress.save(&order.stream, &kept("alice", 2), durable).await.expect_err("an older epoch").reason, Reason::StreamFenced);
    }
    progress.flush().await.expect("flushed");
    assert_eq!(world.domain.open_stream(&cx("bob"), open.clone()).await.expect_err("alice's").reason, Reason::PermissionDenied);
    world.domain.open_stream(&cx("admin"), open).await.expect("who administers the sink may");
    let shown =
        world.domain.show_push_stream(&cx("bob"), ShowPushStream { data_sink: "s".to_owned(), ..ShowPushStream::default() }).await.expect("shown").streams;
    assert_eq!((shown[0].stream.as_str(), shown[0].next_offset, shown[0].data_sink.clone()), ("x", 5, sink.name));
    let forget = DropPushStream { data_sink: "s".to_owned(), stream: "x".to_owned(), if_exists: false };
    assert_eq!(world.domain.drop_push_stream(&cx("bob"), forget.clone()).await.expect_err("alice's").reason, Reason::PermissionDenied);
    assert!(world.domain.drop_push_stream(&cx("alice"), forget.clone()).await.expect("forgotten").dropped);
    assert_eq!(world.domain.drop_push_stream(&cx("alice"), forget).await.expect_err("gone").reason, Reason::StreamNotFound);
}

#[tokio::test]
async fn push_once_is_answered_again_and_not_written_again() {
    let world = world().await;
    world.table("admin", "t").await;
    world.sink("admin", "s", "table://t", &[]).await.expect("made");
    let request = PushOnce { data_sink: "s".to_owned(), request_id: "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11".to_owned(), ..PushOnce::default() };
    let payload = ndjson("{\"id\":1}\n");
    let OnceTurn::Write(order, ticket) = world.domain.push_once(&cx("admin"), request.clone(), &payload).await.expect("a turn") else { panic!("first") };
    assert!(order.exclusive && order.ephemeral);
    let busy = world.domain.push_once(&cx("admin"), request.clone(), &payload).await.expect_err("under way");
    assert!(busy.retry_after.is_some());
    let answer = PushedOnce {
        next_offset: 1,
        counts: Counts { delivered: 1, ..Counts::default() },
        record_errors: crate::delivery::RecordErrors::default(),
        artifacts: Vec::new(),
        guarantee: Guarantee::ExactlyOnce,
        committed: Timestamp::from_micros(7),
    };
    world.domain.push_once_done(ticket, &answer).await.expect("kept");
    let OnceTurn::Replayed(again) = world.domain.push_once(&cx("admin"), request.clone(), &payload).await.expect("a turn") else { panic!("known") };
    assert_eq!((again.next_offset, again.counts, again.guarantee, again.committed), (1, answer.counts, answer.guarantee, answer.committed));
    let other = world.domain.push_once(&cx("admin"), request, &ndjson("{\"id\":2}\n")).await.expect_err("another body");
    assert_eq!(other.reason, Reason::RequestIdReused);
}

#[tokio::test]
async fn checks_explain_themselves() {
    let world = world().await;
    world.user("alice").await;
    world.role("writers").await;
    world.table("admin", "t").await;
    world.sink("admin", "s", "table://t", &[]).await.expect("made");
    world
        .domain
        .grant_role(&cx("admin"), GrantRole { role: "writers".to_owned(), member: "alice".to_owned(), request_id: String::new() })
        .await
        .expect("a member");
    world.grant("admin", "writers", ObjectType::DataSink, "default.*", Permission::Connect, false).await.expect("granted");
    let check = |principal: &str, object: &str| CheckPermission {
        principal: principal.to_owned(),
        object_type: Some(ObjectType::DataSink),
        object: object.to_owned(),
        permission: Some(Permission::Connect),
    };
    let checked = world.domain.check_permission(&cx("alice"), check("", "s")).await.expect("checked");
    assert!(checked.allowed);
    assert_eq!((checked.because[0].object.as_str(), checked.because[0].via.as_str()), ("default.*", "writers"));
    assert_eq!(world.domain.check_permission(&cx("alice"), check("admin", "s")).await.expect_err("others").reason, Reason::PermissionDenied);
    let shown = world.domain.show_permission(&cx("alice"), ShowPermission { include_inherited: true, ..ShowPermission::default() }).await.expect("shown");
    assert_eq!(shown.grants.len(), 1);
    let on = ShowPermission { object_type: Some(ObjectType::DataSink), object: "s".to_owned(), include_inherited: true, ..ShowPermission::default() };
    let all = world.domain.show_permission(&cx("admin"), on).await.expect("shown").grants;
    assert_eq!(all.len(), 3, "admin's own, the writers' pattern, system admin: {all:?}");
}

#[tokio::test]
async fn the_audit_log_holds_changes_and_refusals_and_verifies() {
    let world = world().await;
    world.user("mallory").await;
    world.credential("admin", "c", "x").await;
    world.domain.drop_credential(&cx("mallory"), drop_credential("c")).await.expect_err("denied");
    world.domain.authenticate(Presented::Bearer(secret("dsk_bad")), "9.9.9.9:1").await.expect_err("unknown");
    let verified = world.domain.verify_audit(world.domain.audit_path()).await.expect("read");
    assert_eq!(verified.faults, Vec::<String>::new());
    let text = std::fs::read_to_string(world.domain.audit_path()).expect("a log");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen: Vec<(&str, &str, &str)> = lines
        .iter()
        .map(|line| (line["principal"].as_str().expect("text"), line["decision"].as_str().expect("text"), line["object"].as_str().expect("text")))
        .collect();
    assert_eq!(seen, [("admin", "allow", "mallory"), ("admin", "allow", "default.c"), ("mallory", "deny", "default.c"), ("", "deny", "")]);
}

#[test]
fn calls_can_be_answered_on_any_thread() {
    fn sendable<T: Send>(_: T) {}
    fn all(domain: &Domain, cx: &OpContext) {
        sendable(domain.create_data_sink(cx, CreateDataSink::default()));
        sendable(domain.alter_data_sink(cx, AlterDataSink::default()));
        sendable(domain.alter_credential(cx, credential_change("c")));
        sendable(domain.drop_schema(cx, DropSchema::default()));
        sendable(domain.create_table(cx, CreateTable::default()));
        sendable(domain.revoke_permission(
            cx,
            RevokePermission {
                principal: String::new(),
                object_type: None,
                object: String::new(),
                permission: None,
                if_exists: false,
                request_id: String::new(),
            },
        ));
        sendable(domain.drop_principal(cx, DropPrincipal::default()));
        sendable(domain.create_access_token(cx, CreateAccessToken::default()));
        sendable(domain.open_stream(cx, OpenStream::default()));
        sendable(domain.authenticate(Presented::Nothing, ""));
    }
    let _ = all;
}
