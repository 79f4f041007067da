//! Why: a secret that was handed over is never seen again: not in an answer, an error, a log at its most talkative, a metric, an argument or a file. Never trusts that it was used: the receiver must have got it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    routing::any,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use datasink::api::pb::{
    AlterCredentialRequest, AlterDataSinkRequest, AlterPrincipalRequest, CheckStatus, CreateAccessTokenRequest, CreateCredentialRequest, CreateDataSinkRequest,
    CreatePrincipalRequest, CredentialType, DropCredentialRequest, DropDataSinkRequest, ExecuteSqlRequest, PrincipalKind, PushOnceRequest, SecretRef,
    ShowAccessTokenRequest, ShowCredentialRequest, ShowDataSinkRequest, ShowPrincipalRequest, ShowSinkKindsRequest, TestDataSinkRequest, WhoAmIRequest,
    alter_credential_request, create_credential_request, secret_ref, sql_service_client::SqlServiceClient,
};
use tonic::{Code, Response, Status};

use crate::{
    secrets::{Canary, Finder},
    server::{Caller, Place},
    stream::{Stream, lines_batch, open},
};

const SECRET: &str = r#"cAn4ry"one+/=<a&b>%\bearer"#;
const SECOND_SECRET: &str = r#"cAn4ry"two+/=<a&b>%\bearer"#;
const HEADER_VALUE: &str = r#"cAn4ry"three+/=<a&b>%\header"#;
const PASSWORD: &str = "cAn4ry\"four+/=<ä&b>%\\pass";
const SIGNING_KEY: &[u8; 32] = b"\x01\xfe cAn4ry five\x80 is key of bytes!";

/// What came back to a caller, with the name of the call.
#[derive(Default)]
struct Replies(Vec<(String, Vec<u8>)>);

impl Replies {
    /// Keeps all that an answer carries, good or bad.
    fn keep<M: prost::Message + Clone>(&mut self, call: &str, answer: Result<Response<M>, Status>) -> Result<M, Status> {
        let bytes = match &answer {
            Ok(response) => [response.get_ref().encode_to_vec(), format!("{:?}", response.metadata()).into_bytes()].concat(),
            Err(status) => [status.message().as_bytes(), status.details(), format!("{:?}", status.metadata()).as_bytes()].concat(),
        };
        self.0.push((format!("answer {} of {call}", self.0.len()), bytes));
        answer.map(Response::into_inner)
    }
}

/// A receiver that keeps what it got, refuses under `/refuse`, and answers with the caller's own headers.
async fn receiver() -> (SocketAddr, Arc<Mutex<Vec<HeaderMap>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let answer = async |State(got): State<Arc<Mutex<Vec<HeaderMap>>>>, uri: Uri, headers: HeaderMap| {
        let echo = format!("{headers:?}");
        got.lock().unwrap().push(headers);
        (if uri.path() == "/refuse" { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, echo)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(any(answer)).with_state(got.clone());
    #[expect(clippy::disallowed_methods, reason = "the test's own receiver, gone with its runtime")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, got)
}

fn credential(name: &str, secret: Option<&str>, options: &[(&str, &str)]) -> CreateCredentialRequest {
    CreateCredentialRequest {
        name: name.to_owned(),
        r#type: CredentialType::Rest.into(),
        secret_source: secret.map(|secret| create_credential_request::SecretSource::Secret(secret.to_owned())),
        options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..CreateCredentialRequest::default()
    }
}

fn sink(name: &str, destination: &str, credential: &str) -> CreateDataSinkRequest {
    CreateDataSinkRequest {
        name: name.to_owned(),
        destination: destination.to_owned(),
        options: [("credential".to_owned(), credential.to_owned()), ("wait_timeout".to_owned(), "2".to_owned())].into(),
        ..CreateDataSinkRequest::default()
    }
}

fn record(sink: &str) -> PushOnceRequest {
    PushOnceRequest { data_sink: sink.to_owned(), batch: Some(lines_batch(None, "{\"n\":1}\n")), ..PushOnceRequest::default() }
}

fn signing_secret() -> String {
    format!("whsec_{}", STANDARD.encode(SIGNING_KEY))
}

#[tokio::test]
async fn no_secret_is_ever_seen_again() {
    let place = Place::new();
    let server = place.serve().args(&["--log", "trace", "--set", "egress_private=true"]).start().await;
    let (address, got) = receiver().await;
    let admin = server.admin().await;
    let mut replies = Replies::default();

    credentials_and_sinks(&admin, address, &mut replies).await;
    // `tests/run` looks for these secrets in what every server of the run leaves behind, and wants to know that one had them.
    place.file("canary-planted", "");
    assert_received(&got.lock().unwrap());
    malformed(&admin, &mut replies).await;
    let token = identities(&admin, &mut replies, &place, &server).await;
    drops(&admin, &mut replies).await;

    let metrics = server.metrics();
    let arguments = std::fs::read(format!("/proc/{}/cmdline", server.process.id())).unwrap();
    let keys = std::fs::read_to_string(place.data_dir().join("keys")).unwrap();
    let finder = Finder::new(canaries(&server.admin_token(), &token, &keys));
    drop(admin);
    server.stop().await;

    let mut sightings: Vec<_> = replies.0.iter().flat_map(|(call, bytes)| finder.look(call, bytes)).collect();
    let (logs, stdout) = (place.said("stderr"), place.said("stdout"));
    assert!(String::from_utf8_lossy(&logs).contains("\"DEBUG\""), "the log was to be at its most talkative, and has nothing finer than INFO");
    for (name, bytes) in [("the log", logs.as_slice()), ("standard output", &stdout), ("the metrics", metrics.as_bytes()), ("the arguments", &arguments)] {
        sightings.extend(finder.look(name, bytes));
    }
    sightings.extend(finder.look_in_files(&place.data_dir(), &["keys", "admin.token"]));
    assert!(sightings.is_empty(), "secrets were seen: {sightings:#?}");
    // The finder is not blind: where they may be, they are found.
    assert!(!finder.look("keys", keys.as_bytes()).is_empty());
    every_line_is_json(&logs);
}

/// What a name or a secret in a log line could break.
fn every_line_is_json(logs: &[u8]) {
    for line in logs.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok(), "not JSON: {}", String::from_utf8_lossy(line));
    }
}

fn canaries(admin_token: &str, token: &str, keys: &str) -> Vec<Canary> {
    let part = |token: &str| token.split('_').nth(2).expect("dsk_<id>_<secret>_<crc>").to_owned();
    let key = keys.lines().next().and_then(|line| line.split_once(':')).expect("id:base64").1.trim().to_owned();
    vec![
        Canary::new("the credential's secret", SECRET.as_bytes()),
        Canary::new("the credential's second secret", SECOND_SECRET.as_bytes()),
        Canary::new("signing_secret", SIGNING_KEY),
        Canary::new("signing_secret's text", signing_secret().as_bytes()),
        Canary::new("header_value", HEADER_VALUE.as_bytes()),
        Canary::new("the password", PASSWORD.as_bytes()),
        Canary::new("the login", STANDARD.encode(format!("alice:{PASSWORD}")).as_bytes()),
        Canary::new("the admin's token", part(admin_token).as_bytes()),
        Canary::new("alice's token", part(token).as_bytes()),
        Canary::new("the key ring's key", &STANDARD.decode(&key).expect("base64")),
        Canary::new("the key ring's key as text", key.as_bytes()),
    ]
}

/// Credentials and sinks through their whole life, good and refused.
async fn credentials_and_sinks(admin: &Caller, address: SocketAddr, replies: &mut Replies) {
    let (mut credentials, mut sinks, mut push) = (admin.credentials(), admin.sinks(), admin.push());
    let signing = signing_secret();
    let bearer = credential("default.bearer", Some(SECRET), &[("signing_secret", &signing)]);
    replies.keep("CreateCredential", credentials.create_credential(CreateCredentialRequest { validate_only: true, ..bearer.clone() }).await).unwrap();
    replies.keep("CreateCredential", credentials.create_credential(bearer.clone()).await).unwrap();
    replies.keep("CreateCredential again", credentials.create_credential(bearer).await).unwrap_err();
    let header = credential("default.header", None, &[("header_name", "x-api-key"), ("header_value", HEADER_VALUE)]);
    replies.keep("CreateCredential", credentials.create_credential(header).await).unwrap();

    for (name, path, credential) in
        [("default.good", "ok", "bearer"), ("default.keyed", "ok", "header"), ("default.bad", "refuse", "bearer"), ("default.bad_key", "refuse", "header")]
    {
        let mut request = sink(name, &format!("http://{address}/{path}"), &format!("default.{credential}"));
        // With the check and, where that refuses, without it.
        if replies.keep("CreateDataSink", sinks.create_data_sink(request.clone()).await).is_err() {
            request.options.insert("skip_validation".to_owned(), "true".to_owned());
            replies.keep("CreateDataSink unchecked", sinks.create_data_sink(request).await).unwrap();
        }
        let test = TestDataSinkRequest { name: name.to_owned(), write_probe: true, ..TestDataSinkRequest::default() };
        let check = replies.keep("TestDataSink", sinks.test_data_sink(test).await).unwrap().check.unwrap();
        assert_eq!(check.passed, path == "ok", "{check:?}");
        assert_eq!(check.steps.iter().any(|step| step.status() == CheckStatus::Failed), path == "refuse");
        let pushed = replies.keep("PushOnce", push.push_once(record(name)).await);
        assert_eq!(pushed.is_ok(), path == "ok", "{pushed:?}");
    }
    // A session as well, whose failure comes in frames.
    let (mut stream, _) = Stream::open(admin, open("default.bad", "refused")).await;
    stream.lines(0, "{\"n\":1}\n").await;
    let _ = replies.keep::<()>("Push", Err(stream.failure().await));

    let alter = AlterCredentialRequest {
        name: "default.bearer".to_owned(),
        secret_source: Some(alter_credential_request::SecretSource::Secret(SECOND_SECRET.to_owned())),
        ..AlterCredentialRequest::default()
    };
    replies.keep("AlterCredential", credentials.alter_credential(AlterCredentialRequest { etag: "stale".to_owned(), ..alter.clone() }).await).unwrap_err();
    replies.keep("AlterCredential", credentials.alter_credential(alter).await).unwrap();
    replies.keep("PushOnce after the rotation", push.push_once(record("default.good")).await).unwrap();
    for name in ["default.bearer", "default.header", "*", "default.absent"] {
        let show = ShowCredentialRequest { name: name.to_owned(), include_used_by: true, ..ShowCredentialRequest::default() };
        let _ = replies.keep("ShowCredential", credentials.show_credential(show).await);
    }
    let alter = AlterDataSinkRequest {
        name: "default.good".to_owned(),
        updates: [("json_format".to_owned(), "nested".to_owned())].into(),
        ..AlterDataSinkRequest::default()
    };
    replies.keep("AlterDataSink", sinks.alter_data_sink(alter).await).unwrap();
    replies.keep("ShowDataSink", sinks.show_data_sink(ShowDataSinkRequest { include_dependents: true, ..ShowDataSinkRequest::default() }).await).unwrap();
    replies.keep("ShowSinkKinds", sinks.show_sink_kinds(ShowSinkKindsRequest::default()).await).unwrap();
}

/// Without this the test could be green because nothing was ever sent.
fn assert_received(got: &[HeaderMap]) {
    let any = |name: &str, value: &str| got.iter().any(|headers| headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes()));
    assert!(any("authorization", &format!("Bearer {SECRET}")));
    assert!(any("authorization", &format!("Bearer {SECOND_SECRET}")));
    assert!(any("x-api-key", HEADER_VALUE));
    assert!(got.iter().any(|headers| headers.contains_key("webhook-signature")));
}

/// Secrets where they do not belong: every message that would quote its input.
async fn malformed(admin: &Caller, replies: &mut Replies) {
    let (mut credentials, mut sinks) = (admin.credentials(), admin.sinks());
    let signing = signing_secret();
    let with_identity = |identity: &str, request| CreateCredentialRequest { identity: identity.to_owned(), ..request };
    for request in [
        credential("default.x", Some(SECRET), &[("signing_secrets", &signing), ("header_valeu", HEADER_VALUE)]),
        credential("not..a..name", Some(SECRET), &[]),
        credential("absent_schema.x", Some(SECRET), &[("signing_secret", &signing)]),
        with_identity("user", credential("default.x", Some(&SECRET.repeat(4_000)), &[])),
        CreateCredentialRequest { r#type: CredentialType::AwsAccessKey.into(), ..credential("default.x", Some(SECRET), &[("signing_secret", &signing)]) },
        CreateCredentialRequest { r#type: 99, ..credential("default.x", Some(SECRET), &[]) },
        CreateCredentialRequest { request_id: format!("not a uuid {SECRET}")[..10].to_owned(), ..credential("default.x", Some(SECRET), &[]) },
        CreateCredentialRequest {
            secret_source: Some(create_credential_request::SecretSource::SecretRef(SecretRef {
                source: Some(secret_ref::Source::EnvironmentVariable("HOME".to_owned())),
            })),
            ..credential("default.x", None, &[])
        },
    ] {
        replies.keep("CreateCredential malformed", credentials.create_credential(request).await).unwrap_err();
    }
    // Known options whose content no request could carry: the kind that would connect with them says so.
    for request in [
        credential("default.useless_1", Some(SECRET), &[("header_name", "x"), ("header_value", &format!("{HEADER_VALUE}\r\nx: y"))]),
        credential("default.useless_2", None, &[("signing_secret", SECRET)]),
        credential("default.useless_3", None, &[("header_value", HEADER_VALUE)]),
    ] {
        replies.keep("CreateCredential useless", credentials.create_credential(request).await).unwrap_err();
    }
    // One request_id with two secrets.
    let id = "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11".to_owned();
    let once = CreateCredentialRequest { request_id: id.clone(), ..credential("default.once", Some(SECRET), &[]) };
    replies.keep("CreateCredential once", credentials.create_credential(once.clone()).await).unwrap();
    replies.keep("CreateCredential replayed", credentials.create_credential(once).await).unwrap();
    let other = CreateCredentialRequest { request_id: id, ..credential("default.once", Some(SECOND_SECRET), &[]) };
    replies.keep("CreateCredential reused", credentials.create_credential(other).await).unwrap_err();

    for (destination, option, value) in [
        ("http://127.0.0.1:9/", "pasword", SECRET),
        ("http://127.0.0.1:9/", "header_value", HEADER_VALUE),
        ("http://127.0.0.1:9/", "secret", SECRET),
        (&format!("http://user:{}@127.0.0.1:9/", STANDARD.encode(SIGNING_KEY)), "json_format", "flat"),
        ("jdbc:postgresql://h/db?user=u&password=cAn4ry%22one%2B%2F%3D%3Ca%26b%3E%25%5Cbearer", "json_format", "flat"),
    ] {
        let mut request = sink("default.x", destination, "default.bearer");
        request.options.insert(option.to_owned(), value.to_owned());
        replies.keep("CreateDataSink malformed", sinks.create_data_sink(request.clone()).await).unwrap_err();
        let test = TestDataSinkRequest { destination: request.destination, options: request.options, ..TestDataSinkRequest::default() };
        let _ = replies.keep("TestDataSink proposed", sinks.test_data_sink(test).await);
    }
    let mut sql = SqlServiceClient::new(admin.calls());
    for statement in [
        format!("CREATE CREDENTIAL x TYPE = 'rest', SECRET = '{SECRET}' OOPS"),
        format!("CREATE CREDENTIAL x TYPE = 'rest' SECRET '{SECRET}"),
        format!("CREATE CREDENTIAL default.sql TYPE = 'rest', IDENTITY = '', SECRET = '{SECRET}'"),
    ] {
        let request = ExecuteSqlRequest { sql: statement, default_schema: "default".to_owned(), ..ExecuteSqlRequest::default() };
        let _ = replies.keep("ExecuteSql", sql.execute_sql(request).await);
    }
}

/// Passwords and tokens, right and wrong; gives the token that was made.
async fn identities(admin: &Caller, replies: &mut Replies, _place: &Place, server: &crate::server::Server) -> String {
    let mut permissions = admin.permissions();
    let alice = CreatePrincipalRequest {
        name: "alice".to_owned(),
        kind: PrincipalKind::User.into(),
        password: PASSWORD.to_owned(),
        ..CreatePrincipalRequest::default()
    };
    replies.keep("CreatePrincipal", permissions.create_principal(alice.clone()).await).unwrap();
    replies.keep("CreatePrincipal again", permissions.create_principal(alice.clone()).await).unwrap_err();
    let role = CreatePrincipalRequest { name: "writers".to_owned(), kind: PrincipalKind::Role.into(), ..alice };
    let _ = replies.keep("CreatePrincipal as a role", permissions.create_principal(role).await);
    let alter = AlterPrincipalRequest { name: "alice".to_owned(), password: Some(PASSWORD.to_owned()), ..AlterPrincipalRequest::default() };
    replies.keep("AlterPrincipal", permissions.alter_principal(alter).await).unwrap();
    replies.keep("ShowPrincipal", permissions.show_principal(ShowPrincipalRequest::default()).await).unwrap();
    // The one answer that may carry a token is not kept.
    let token = CreateAccessTokenRequest { principal: "alice".to_owned(), description: "canary".to_owned(), ..CreateAccessTokenRequest::default() };
    let token = permissions.create_access_token(token).await.unwrap().into_inner().token;
    replies
        .keep("ShowAccessToken", permissions.show_access_token(ShowAccessTokenRequest { principal: "*".to_owned(), ..ShowAccessTokenRequest::default() }).await)
        .unwrap();

    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    for good in [basic("alice", PASSWORD), format!("Bearer {token}")] {
        let who = server.caller(&good).await.server().who_am_i(WhoAmIRequest {}).await;
        assert_eq!(replies.keep("WhoAmI", who).unwrap().principal, "alice");
    }
    let cut = &token[..token.len() - 1];
    let wrong = [
        basic("alice", &format!("{PASSWORD}x")),
        basic("nobody", PASSWORD),
        basic(PASSWORD, "x").replace('\n', ""),
        format!("Basic {}", STANDARD.encode(&token)),
        format!("Bearer {cut}"),
        format!("Bearer {token}{token}"),
        format!("Bearer {}", STANDARD.encode(PASSWORD)),
        format!("bearer  {token}x"),
        token.clone(),
    ];
    for authorization in wrong {
        let status = replies.keep("WhoAmI refused", server.caller(&authorization).await.server().who_am_i(WhoAmIRequest {}).await).unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    token
}

async fn drops(admin: &Caller, replies: &mut Replies) {
    for name in ["good", "keyed", "bad", "bad_key"] {
        let request = DropDataSinkRequest { name: format!("default.{name}"), ..DropDataSinkRequest::default() };
        replies.keep("DropDataSink", admin.sinks().drop_data_sink(request).await).unwrap();
    }
    for name in ["bearer", "header", "once"] {
        let request = DropCredentialRequest { name: format!("default.{name}"), ..DropCredentialRequest::default() };
        replies.keep("DropCredential", admin.credentials().drop_credential(request).await).unwrap();
    }
}
