//! Why: a store that was damaged, moved or has no room left never lies about a row and never answers with a backtrace. Never repairs anything by itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use datasink::api::pb::{
    CheckStatus, CreateCredentialRequest, CreateDataSinkRequest, CreateSchemaRequest, CredentialType, DropDataSinkRequest, PushOnceRequest,
    ShowCredentialRequest, TestDataSinkRequest, create_credential_request, push_response, schema_service_client::SchemaServiceClient,
};
use rustix::process::{getegid, geteuid};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    server::{Caller, Ended, PATIENCE, Place, Server, assert_no_panic},
    stream::{Next, Stream, assert_error, lines_batch, open, reason},
};

const ROWS: u64 = 3_000;
const SECRET: &str = "the-bearer-of-the-receiver";

/// A data directory with acknowledged rows and a credential, its server killed.
async fn filled(place: &Place, receiver: &str) {
    let server = place.serve().args(&["--set", "egress_private=true"]).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let credential = CreateCredentialRequest {
        name: "default.c".to_owned(),
        r#type: CredentialType::Rest.into(),
        secret_source: Some(create_credential_request::SecretSource::Secret(SECRET.to_owned())),
        ..CreateCredentialRequest::default()
    };
    admin.credentials().create_credential(credential).await.unwrap();
    let sink = CreateDataSinkRequest {
        name: "default.w".to_owned(),
        destination: receiver.to_owned(),
        options: [("credential", "default.c"), ("skip_validation", "true")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..CreateDataSinkRequest::default()
    };
    admin.sinks().create_data_sink(sink).await.unwrap();
    let (mut stream, _) = Stream::open(&admin, open("default.t", "s")).await;
    for batch in 0..ROWS / 100 {
        stream.numbers(batch * 100, 100).await;
    }
    stream.flush("all").await;
    assert_eq!(stream.flushed("all").await.next_offset.unsigned_abs(), ROWS);
    drop(stream);
    server.kill().await;
}

/// A copy of the data directory without the space that is only kept free.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "ballast" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn store(place: &Place, command: &str, data_dir: &Path, file: Option<&Path>) -> Ended {
    let run = place.program(&["store", command, "--data-dir"]).arg(data_dir);
    match file {
        Some(file) => run.arg(file).end().await,
        None => run.end().await,
    }
}

/// Every row that was acknowledged, or an error that says the store is corrupt: never fewer rows without a word.
async fn rows_or_an_error(admin: &Caller) -> Result<(), tonic::Status> {
    let scan = datasink::api::pb::ScanRowsRequest { table: "default.t".to_owned(), ..Default::default() };
    let mut answers = admin.tables().scan_rows(scan).await?.into_inner();
    while answers.message().await?.is_some() {}
    assert_eq!(admin.numbers_in("default.t").await, (0..ROWS).collect::<Vec<_>>(), "acknowledged rows are missing and nothing says so");
    admin.credentials().show_credential(ShowCredentialRequest { name: "default.c".to_owned(), ..ShowCredentialRequest::default() }).await?;
    Ok(())
}

#[tokio::test]
async fn flipped_bytes_are_refused_with_an_instruction_or_harm_nothing() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    let size = fs::metadata(place.data_dir().join("store/db")).unwrap().len();
    let spots = [0, 1, 7, 15, 16, 24, 100, 511, 512, 4_096].into_iter().chain((1..24).map(|part| size * part / 24)).chain([size - 1]);
    let mut outcomes = Vec::new();
    for spot in spots {
        let dir = place.path(&format!("flip-{spot}"));
        copy(&place.data_dir(), &dir);
        let db = dir.join("store/db");
        let mut bytes = fs::read(&db).unwrap();
        bytes[usize::try_from(spot).unwrap()] ^= 0xff;
        fs::write(&db, bytes).unwrap();

        let verified = store(&place, "verify", &dir, None).await;
        verified.no_panic();
        assert!(matches!(verified.code(), 0 | 65), "byte {spot}: verify ended with {}: {}", verified.code(), verified.stderr);
        let outcome = match place.program(&["serve", "--data-dir"]).arg(&dir).attempt().await {
            Err(refused) => {
                refused.refused(65, &["restore", "import"]);
                "refused"
            }
            Ok(server) => {
                let admin = server.admin().await;
                let outcome = match rows_or_an_error(&admin).await {
                    Ok(()) => "harmless",
                    Err(status) => {
                        assert_error(&status, Code::DataLoss, "STORE_CORRUPT");
                        "told at the read"
                    }
                };
                drop(admin);
                assert_no_panic(&server.process.stderr());
                outcome
            }
        };
        assert!(verified.code() == 65 || outcome == "harmless", "byte {spot}: verify called it sound, and yet: {outcome}");
        outcomes.push((spot, outcome, verified.code()));
        fs::remove_dir_all(dir).unwrap();
    }
    assert!(outcomes.iter().any(|(_, outcome, _)| *outcome == "refused"), "the flips were to hit something: {outcomes:?}");
}

#[tokio::test]
async fn a_store_cut_short_is_refused_or_whole() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    let size = fs::metadata(place.data_dir().join("store/db")).unwrap().len();
    for length in [0, 100, size / 3, size / 2, size - 1] {
        let dir = place.path(&format!("cut-{length}"));
        copy(&place.data_dir(), &dir);
        fs::OpenOptions::new().write(true).open(dir.join("store/db")).unwrap().set_len(length).unwrap();
        match place.program(&["serve", "--data-dir"]).arg(&dir).attempt().await {
            Err(refused) => refused.refused(65, &["restore", "import"]),
            Ok(server) => {
                if let Err(status) = rows_or_an_error(&server.admin().await).await {
                    assert_error(&status, Code::DataLoss, "STORE_CORRUPT");
                }
            }
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn a_sound_store_is_called_sound_and_a_missing_one_is_not_made() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    let verified = store(&place, "verify", &place.data_dir(), None).await;
    assert_eq!(verified.code(), 0, "{}", verified.stderr);
    assert!(serde_json::from_str::<serde_json::Value>(&verified.stdout).is_ok(), "{}", verified.stdout);
    for command in ["verify", "export"] {
        let file = place.path("nothing");
        let refused = store(&place, command, &place.path("absent"), (command == "export").then_some(&*file)).await;
        refused.refused(64, &["absent", "no store"]);
        assert!(!place.path("absent").exists() && !file.exists());
    }
}

#[tokio::test]
async fn commands_leave_a_running_servers_store_alone() {
    let place = Place::new();
    let server = place.start().await;
    for command in ["verify", "export"] {
        let file = place.path("export");
        let refused = store(&place, command, &place.data_dir(), (command == "export").then_some(&*file)).await;
        refused.refused(74, &["another process"]);
    }
    server.stop().await;
}

/// A receiver of webhooks that keeps each `authorization`.
async fn receiver() -> (String, Arc<Mutex<Vec<String>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let take = async |State(got): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap| {
        got.lock().unwrap().push(headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default());
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(take)).with_state(got.clone());
    #[expect(clippy::disallowed_methods, reason = "the test's own receiver, gone with its runtime")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

#[tokio::test]
async fn an_export_restores_rows_streams_and_credentials_in_another_folder() {
    let place = Place::new();
    let (url, got) = receiver().await;
    filled(&place, &url).await;
    let export = place.path("datasink.export");
    let exported = store(&place, "export", &place.data_dir(), Some(&export)).await;
    assert_eq!(exported.code(), 0, "{}", exported.stderr);
    assert!(fs::metadata(&export).unwrap().len() > 1_000);

    // The export holds nothing that its reader could use without the key ring.
    let bytes = fs::read(&export).unwrap();
    assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "the secret is in the export");

    let restored = place.path("restored");
    fs::create_dir(&restored).unwrap();
    let imported = store(&place, "import", &restored, Some(&export)).await;
    assert_eq!(imported.code(), 0, "{}", imported.stderr);
    let again = store(&place, "import", &restored, Some(&export)).await;
    assert_ne!(again.code(), 0, "an import never goes over a store that is there");
    again.no_panic();

    // Without the key ring the sealed secrets are closed for good, and a start says so instead of making new keys.
    let keyless = place.program(&["serve", "--data-dir"]).arg(&restored).start_refused().await;
    keyless.refused(74, &["key ring", "missing"]);
    for name in ["keys", "audit.log", "admin.token"] {
        fs::copy(place.data_dir().join(name), restored.join(name)).unwrap();
    }
    let server = place.program(&["serve", "--set", "egress_private=true", "--data-dir"]).arg(&restored).start().await;
    let admin = server.admin().await;
    assert_eq!(admin.numbers_in("default.t").await, (0..ROWS).collect::<Vec<_>>());
    let (stream, opened) = Stream::open(&admin, open("default.t", "s")).await;
    assert_eq!(opened.next_offset.unsigned_abs(), ROWS, "streams go on where they were");
    drop(stream);
    let record = PushOnceRequest { data_sink: "default.w".to_owned(), batch: Some(lines_batch(None, "{\"n\":1}\n")), ..PushOnceRequest::default() };
    admin.push().push_once(record).await.unwrap();
    assert_eq!(got.lock().unwrap().last(), Some(&format!("Bearer {SECRET}")), "the credential opens with the same key ring");
    drop(admin);
    server.stop().await;
}

#[tokio::test]
async fn a_new_key_goes_in_front_and_the_old_one_stays_as_long_as_it_is_needed() {
    let place = Place::new();
    let (url, got) = receiver().await;
    filled(&place, &url).await;
    let keys = place.data_dir().join("keys");
    let old = fs::read_to_string(&keys).unwrap();
    let new = format!("next:{}\n", STANDARD.encode([7; 32]));
    let serve = || place.serve().args(&["--set", "egress_private=true"]);
    let push = async |server: &Server| {
        let record = PushOnceRequest { data_sink: "default.w".to_owned(), batch: Some(lines_batch(None, "{\"n\":1}\n")), ..PushOnceRequest::default() };
        server.admin().await.push().push_once(record).await.map(|_| got.lock().unwrap().pop().unwrap())
    };

    fs::write(&keys, format!("{new}{old}")).unwrap();
    let server = serve().start().await;
    assert_eq!(push(&server).await.unwrap(), format!("Bearer {SECRET}"));
    server.stop().await;

    // The whole ring may come by the environment instead.
    fs::remove_file(&keys).unwrap();
    let server = serve().env("DATASINK_MASTER_KEY", format!("{new}{old}")).start().await;
    assert_eq!(push(&server).await.unwrap(), format!("Bearer {SECRET}"));
    server.stop().await;

    // Without the key that sealed it the secret stays closed, and nothing is sent in its place.
    serve().env("DATASINK_MASTER_KEY", &new).start_refused().await.refused(74, &["not in the key ring", "put that key back"]);
    assert!(got.lock().unwrap().is_empty(), "the receiver hears nothing without its secret");

    fs::write(&keys, "short:c2hvcnQ=\n").unwrap();
    serve().start_refused().await.refused(74, &["keys", "mode"]);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    serve().start_refused().await.refused(74, &["key 1", "exactly 32"]);
}

#[tokio::test]
async fn an_export_that_is_not_whole_is_refused() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    let export = place.path("export");
    assert_eq!(store(&place, "export", &place.data_dir(), Some(&export)).await.code(), 0);
    let sound = fs::read(&export).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    for (what, bytes) in
        [("cut", &sound[..sound.len() - 1]), ("flipped", &flipped), ("empty", &[]), ("something else", b"PK\x03\x04 this is a zip file, or looks like one")]
    {
        fs::write(&export, bytes).unwrap();
        let dir = place.path("restored");
        let refused = store(&place, "import", &dir, Some(&export)).await;
        assert_eq!(refused.code(), 65, "{what}: {}", refused.stderr);
        refused.no_panic();
        let _ = fs::remove_dir_all(dir);
    }
}

/// A file system of a few megabytes in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, megabytes: u32) -> Self {
        fs::create_dir(&at).unwrap();
        let (user, group) = (geteuid(), getegid());
        let options = format!("size={megabytes}m,uid={},gid={}", user.as_raw(), group.as_raw());
        let mounted = Self::as_root("mount").args(["-t", "tmpfs", "-o", &options, "datasink-test"]).arg(&at).output();
        let mounted = mounted.expect("mount is installed, and sudo for who is not root");
        assert!(
            mounted.status.success(),
            "a full disk needs a small one, and mounting it needs root; run this test as root, or let sudo ask for no password: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self(at)
    }

    /// By sudo for who is not root, as the tests' installers do.
    fn as_root(program: &str) -> Command {
        if geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("sudo");
        command.args(["--non-interactive", program]);
        command
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Self::as_root("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

/// Pushes until the server takes no more; gives what it acknowledged and how it said so.
async fn push_until_full(admin: &Caller) -> (u64, Option<tonic::Status>) {
    let (mut stream, _) = Stream::open(admin, open("default.t", "s")).await;
    let mut acked = 0;
    let mut next = 0;
    loop {
        stream.numbers(next, 1_000).await;
        next += 1_000;
        stream.flush(&next.to_string()).await;
        // In step with the server, so that the end is where the room ended.
        loop {
            match tokio::time::timeout(Duration::from_secs(10), stream.next()).await {
                Ok(Next::Frame(push_response::Frame::Ack(ack))) => {
                    acked = ack.next_offset.unsigned_abs();
                    if acked >= next {
                        break;
                    }
                }
                Ok(Next::Frame(push_response::Frame::Heartbeat(_) | push_response::Frame::Window(_))) => {}
                Ok(Next::Frame(push_response::Frame::DestinationStatus(status))) if status.problem.is_some() => return (acked, None),
                Ok(Next::Frame(frame)) => panic!("acks or a failure, not {frame:?}"),
                Ok(Next::Failed(status)) => return (acked, Some(status)),
                Ok(Next::Ok) => panic!("a session does not end well on a full disk"),
                Err(_) => return (acked, None),
            }
        }
        assert!(next < 10_000_000, "the disk is never full");
    }
}

#[tokio::test]
async fn a_full_disk_stops_acks_says_so_and_loses_nothing() {
    let place = Place::new();
    // Full in earnest: the server is told not to stop before. It keeps 64 MiB of the disk for itself; the file stands for what others have on the disk.
    let disk = SmallDisk::mount(place.path("disk"), 120);
    let dir = disk.0.join("data");
    fs::write(disk.0.join("others"), vec![1; 40 << 20]).unwrap();
    let server = place.program(&["serve", "--set", "disk_free_bytes_min=0", "--data-dir"]).arg(&dir).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (acked, told) = push_until_full(&admin).await;
    assert!(acked > 0, "some rows fit");
    if let Some(status) = told {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{}", status.message());
    }

    let schema = CreateSchemaRequest { name: "more".to_owned(), ..CreateSchemaRequest::default() };
    let status = SchemaServiceClient::new(admin.calls()).create_schema(schema).await.expect_err("there is no room for it");
    assert_error(&status, Code::Unavailable, "STORE_UNAVAILABLE");
    let mut health = server.health().await;
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = health.check(HealthCheckRequest { service: "datasink.v1.PushService".to_owned() }).await.unwrap().into_inner();
        if answer.status() == ServingStatus::NotServing {
            break;
        }
        assert!(Instant::now() < until, "health does not tell that the store takes nothing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Rows that were applied and not synced must not be told on, so the store reads nothing either until it is opened again.
    assert_no_panic(&server.process.stderr());
    drop((admin, health));
    let mut server = server;
    server.terminate();
    server.process.wait(PATIENCE).await;
    drop(server);

    fs::remove_file(disk.0.join("others")).unwrap();
    let server = place.program(&["serve", "--set", "disk_free_bytes_min=0", "--data-dir"]).arg(&dir).start().await;
    let admin = server.admin().await;
    let there = admin.numbers_in("default.t").await;
    assert!(there.len() as u64 >= acked, "{} of {acked} acknowledged rows are left", there.len());
    assert_eq!(there, (0..there.len() as u64).collect::<Vec<_>>(), "each once, none between missing");
    let (mut stream, opened) = Stream::open(&admin, open("default.t", "s")).await;
    assert_eq!(opened.next_offset.unsigned_abs(), there.len() as u64);
    stream.numbers(there.len() as u64, 10).await;
    stream.finish().await;
    assert_eq!(stream.ended().await.next_offset.unsigned_abs(), there.len() as u64 + 10);
    drop((stream, admin));
    server.stop().await;
}

#[tokio::test]
async fn everything_can_be_sealed_anew_and_the_old_key_thrown_away() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    let ring = place.data_dir().join("keys");
    let old = fs::read_to_string(&ring).unwrap();
    let new = format!("new:{}\n", STANDARD.encode([7; 32]));
    // The new key alone opens nothing yet.
    fs::write(&ring, &new).unwrap();
    place.serve().start_refused().await.refused(74, &["key"]);
    store(&place, "rekey", &place.data_dir(), None).await.refused(74, &["key"]);

    fs::write(&ring, format!("{new}{old}")).unwrap();
    let rekeyed = store(&place, "rekey", &place.data_dir(), None).await;
    assert_eq!(rekeyed.code(), 0, "{}", rekeyed.stderr);
    let told: serde_json::Value = serde_json::from_str(&rekeyed.stdout).unwrap();
    assert_eq!((&told["key"], &told["resealed"], &told["kept"]), (&"new".into(), &2.into(), &0.into()), "the credential and the catalogue's own key");
    let again = store(&place, "rekey", &place.data_dir(), None).await;
    let told: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&told["resealed"], &told["kept"]), (&0.into(), &2.into()));

    fs::write(&ring, &new).unwrap();
    let server = place.serve().args(&["--set", "egress_private=true"]).start().await;
    let admin = server.admin().await;
    let test = TestDataSinkRequest { name: "default.w".to_owned(), ..TestDataSinkRequest::default() };
    let check = admin.sinks().test_data_sink(test).await.unwrap().into_inner().check.unwrap();
    let step = check.steps.iter().find(|step| step.name == "credential").expect("webhooks look at their credential");
    assert_eq!(step.status(), CheckStatus::Passed, "{check:?}");
    rows_or_an_error(&admin).await.unwrap();
    drop(admin);
    server.stop().await;
    let audit = place.program(&["audit", "verify", "--data-dir"]).arg(place.data_dir()).end().await;
    assert_eq!(audit.code(), 0, "{} {}", audit.stdout, audit.stderr);
}

#[tokio::test]
async fn with_too_little_room_on_the_disk_the_server_reads_and_writes_nothing() {
    let place = Place::new();
    filled(&place, "http://127.0.0.1:9/").await;
    // More than any disk has.
    let server = place.serve().args(&["--set", "disk_free_bytes_min=9000000000000000000"]).start().await;
    server.process.says("read_only").await;
    let admin = server.admin().await;
    rows_or_an_error(&admin).await.unwrap();
    let drop_it = DropDataSinkRequest { name: "default.w".to_owned(), ..DropDataSinkRequest::default() };
    let status = admin.sinks().drop_data_sink(drop_it.clone()).await.unwrap_err();
    assert_error(&status, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(status.message().contains("disk_free_bytes_min"), "{status:?}");
    drop(admin);
    server.kill().await;
    let server = place.start().await;
    server.admin().await.sinks().drop_data_sink(drop_it).await.unwrap();
    server.stop().await;
}
