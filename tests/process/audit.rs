//! Why: what was changed and who was refused stands in the audit log, once each, and nobody takes a line out unseen. Never counts what was only looked at.

use std::{fs, path::PathBuf};

use datasink::api::pb::{
    CreateCredentialRequest, CreateDataSinkRequest, CreateSchemaRequest, CredentialType, DropDataSinkRequest, DropSchemaRequest, GrantPermissionRequest,
    InsertRowsRequest, ObjectType, PermissionKind, RevokePermissionRequest, ShowDataSinkRequest, TestDataSinkRequest, WhoAmIRequest, create_credential_request,
    schema_service_client::SchemaServiceClient,
};
use serde_json::Value;
use tonic::Code;

use crate::{
    server::{Caller, Ended, Place, Server},
    stream::lines_batch,
};

fn log(place: &Place) -> PathBuf {
    place.data_dir().join("audit.log")
}

fn lines(place: &Place) -> Vec<Value> {
    let text = fs::read_to_string(log(place)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"))).collect()
}

/// The lines that `calls` adds.
async fn added<T>(place: &Place, calls: impl Future<Output = T>) -> (Vec<Value>, T) {
    let before = lines(place).len();
    let done = calls.await;
    (lines(place).split_off(before), done)
}

#[track_caller]
fn assert_line(line: &Value, principal: &str, rpc: &str, object: &str, decision: &str) {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    assert_eq!(text("principal"), principal, "{line}");
    assert!(text("rpc").ends_with(rpc), "{line}");
    assert_eq!(text("object"), object, "{line}");
    assert_eq!(text("decision"), decision, "{line}");
    assert!(!text("time").is_empty() && !text("mac").is_empty(), "{line}");
}

async fn schema(caller: &Caller, name: &str) {
    let request = CreateSchemaRequest { name: name.to_owned(), ..CreateSchemaRequest::default() };
    SchemaServiceClient::new(caller.calls()).create_schema(request).await.unwrap();
}

async fn verify(place: &Place) -> Ended {
    place.program(&["audit", "verify", "--data-dir"]).arg(place.data_dir()).end().await
}

/// A stopped server with some lines.
async fn some_lines(place: &Place) -> Server {
    let server = place.start().await;
    let admin = server.admin().await;
    for name in ["one", "two", "three", "four"] {
        schema(&admin, name).await;
    }
    server
}

#[tokio::test]
async fn one_line_for_each_change_and_each_refusal_and_none_for_a_look() {
    let place = Place::new();
    let server = place.start().await;
    let admin = server.admin().await;
    let (new, ()) = added(&place, schema(&admin, "one")).await;
    assert_eq!(new.len(), 1, "{new:?}");
    assert_line(&new[0], "admin", "CreateSchema", "one", "allow");

    let (new, ()) = added(&place, admin.local_sink("one.t")).await;
    assert_eq!(new.len(), 2, "a table and a sink: {new:?}");
    assert_line(&new[0], "admin", "CreateTable", "one.t", "allow");
    assert_line(&new[1], "admin", "CreateDataSink", "one.t", "allow");

    let insert =
        |table: &str| InsertRowsRequest { table: table.to_owned(), batch: Some(lines_batch(None, "{\"n\":7}\n{\"n\":8}\n")), ..InsertRowsRequest::default() };
    let (new, answer) = added(&place, admin.tables().insert_rows(insert("one.t"))).await;
    assert_eq!(answer.unwrap().into_inner().inserted, 2);
    assert_eq!(new.len(), 1, "one line for the call, however many rows: {new:?}");
    assert_line(&new[0], "admin", "InsertRows", "one.t", "allow");
    assert!(new[0]["rule"].as_str().unwrap().contains("insert"), "{new:?}");

    let (new, token) = added(&place, admin.user("bob")).await;
    assert_eq!(new.len(), 2, "a user and a token: {new:?}");

    let (new, _) = added(&place, admin.sinks().show_data_sink(ShowDataSinkRequest::default())).await;
    assert!(new.is_empty(), "{new:?}");

    let bob = server.caller(&format!("Bearer {token}")).await;
    let drop_it = || DropDataSinkRequest { name: "one.t".to_owned(), ..DropDataSinkRequest::default() };
    let (new, status) = added(&place, bob.sinks().drop_data_sink(drop_it())).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(new.len(), 1, "{new:?}");
    assert_line(&new[0], "bob", "DropDataSink", "one.t", "deny");

    let grant = GrantPermissionRequest {
        principal: "bob".to_owned(),
        object_type: ObjectType::DataSink.into(),
        object: "one.t".to_owned(),
        permission: PermissionKind::Connect.into(),
        ..GrantPermissionRequest::default()
    };
    let (new, _) = added(&place, async { admin.permissions().grant_permission(grant.clone()).await.unwrap() }).await;
    assert_eq!(new.len(), 1, "{new:?}");
    assert_line(&new[0], "admin", "GrantPermission", "one.t", "allow");
    let revoke = RevokePermissionRequest {
        principal: grant.principal,
        object_type: grant.object_type,
        object: grant.object,
        permission: grant.permission,
        ..RevokePermissionRequest::default()
    };
    let (new, _) = added(&place, async { admin.permissions().revoke_permission(revoke).await.unwrap() }).await;
    assert_eq!(new.len(), 1, "{new:?}");

    let (new, status) = added(&place, async { server.caller("Bearer dsk_0_0_0").await.server().who_am_i(WhoAmIRequest {}).await }).await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(new.len(), 1, "a login that fails is a refusal: {new:?}");
    assert_eq!(new[0]["decision"], "deny");

    let drop_schema = DropSchemaRequest { name: "one".to_owned(), ..DropSchemaRequest::default() };
    let (new, status) = added(&place, SchemaServiceClient::new(admin.calls()).drop_schema(drop_schema)).await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
    assert!(new.len() <= 1, "nothing was changed: {new:?}");

    drop((admin, bob));
    server.stop().await;
    let verified = verify(&place).await;
    assert_eq!(verified.code(), 0, "{} {}", verified.stdout, verified.stderr);
    let told: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(told["lines"], lines(&place).len());
}

#[tokio::test]
async fn every_connection_that_opens_a_credential_has_its_line() {
    let place = Place::new();
    let server = place.serve().args(&["--set", "egress_private=true"]).start().await;
    let admin = server.admin().await;
    let credential = CreateCredentialRequest {
        name: "default.c".to_owned(),
        r#type: CredentialType::Rest.into(),
        secret_source: Some(create_credential_request::SecretSource::Secret("s3cr3t".to_owned())),
        ..CreateCredentialRequest::default()
    };
    admin.credentials().create_credential(credential).await.unwrap();
    let sink = CreateDataSinkRequest {
        name: "default.w".to_owned(),
        // Nothing listens there: what is noted is that the credential was opened, not that it was of use.
        destination: "http://127.0.0.1:9/".to_owned(),
        options: [("credential", "default.c"), ("skip_validation", "true")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..CreateDataSinkRequest::default()
    };
    let (new, _) = added(&place, admin.sinks().create_data_sink(sink)).await;
    assert_eq!(new.len(), 1, "made without a look at the destination: {new:?}");
    let (new, _) = added(&place, admin.sinks().test_data_sink(TestDataSinkRequest { name: "default.w".to_owned(), ..TestDataSinkRequest::default() })).await;
    let uses: Vec<&Value> = new.iter().filter(|line| line["object_type"] == "credential").collect();
    let [used] = uses[..] else { panic!("{new:?}") };
    assert_line(used, "admin", "TestDataSink", "default.c", "allow");
    assert!(used["rule"].as_str().unwrap().contains("default.w") && used["outcome"] == "opened: version 1", "{used}");
    drop(admin);
    server.stop().await;
    assert_eq!(verify(&place).await.code(), 0);
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts() {
    let place = Place::new();
    some_lines(&place).await.kill().await;
    let server = place.start().await;
    schema(&server.admin().await, "five").await;
    server.stop().await;
    let numbers: Vec<u64> = lines(&place).iter().map(|line| line["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(verify(&place).await.code(), 0);
}

#[tokio::test]
async fn every_way_of_tampering_is_found() {
    let place = Place::new();
    some_lines(&place).await.stop().await;
    assert_eq!(verify(&place).await.code(), 0);
    let sound = fs::read_to_string(log(&place)).unwrap();
    let rows: Vec<&str> = sound.lines().collect();
    assert!(rows.len() >= 4);
    let joined = |rows: &[&str]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    let without = |at: usize| joined(&rows.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, row)| *row).collect::<Vec<_>>());
    let mut swapped = rows.clone();
    swapped.swap(1, 2);
    let mut twice = rows.clone();
    twice.insert(1, rows[1]);
    let tampered = [
        ("another principal", sound.replacen("\"principal\":\"admin\"", "\"principal\":\"nobody\"", 1)),
        ("another object", sound.replacen("\"two\"", "\"twp\"", 1)),
        ("the first line gone", without(0)),
        ("a line in the middle gone", without(1)),
        ("the last line gone", without(rows.len() - 1)),
        ("two lines swapped", joined(&swapped)),
        ("a line twice", joined(&twice)),
        ("nothing left", String::new()),
        ("no JSON", format!("hello\n{sound}")),
    ];
    for (what, text) in tampered {
        assert_ne!(text, sound, "{what}");
        fs::write(log(&place), text).unwrap();
        let found = verify(&place).await;
        assert_eq!(found.code(), 65, "{what}: {} {}", found.stdout, found.stderr);
        found.no_panic();
    }
    fs::write(log(&place), &sound).unwrap();
    assert_eq!(verify(&place).await.code(), 0);
}
