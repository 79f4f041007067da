//! Why: one record goes through the whole house, from the wire to the table and back; the thread that everything else is sewn to. Never more than the shortest way.

use std::time::Duration;

use datasink::api::pb::{PushOnceRequest, ShowServerRequest, WhoAmIRequest, server_service_client::ServerServiceClient};
use tonic::Request;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{stream::numbers, support::Server};

#[tokio::test]
async fn one_record_from_the_wire_to_the_table_and_back() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let request = PushOnceRequest {
        data_sink: "default.s".to_owned(),
        batch: Some(numbers(None, 1)),
        request_id: "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11".to_owned(),
        ..PushOnceRequest::default()
    };
    let first = admin.push().push_once(request.clone()).await.unwrap().into_inner();
    assert_eq!((first.next_offset, first.counts.unwrap().delivered_records, first.replayed), (1, 1, false));
    let again = admin.push().push_once(request).await.unwrap().into_inner();
    assert!(again.replayed);
    let rows = admin.rows("default.t").await;
    assert_eq!(rows, [serde_json::json!({ "n": 0 })]);
}

#[tokio::test]
async fn health_needs_no_identity_and_turns_over_when_the_server_drains() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    let ask = || HealthCheckRequest { service: "datasink.v1.PushService".to_owned() };
    assert_eq!(health.check(ask()).await.unwrap().into_inner().status(), ServingStatus::Serving);
    let mut watch = health.watch(ask()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.running.lifecycle.drain();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let refused = server.admin().push().push_once(PushOnceRequest::default()).await.unwrap_err();
    crate::stream::assert_error(&refused, tonic::Code::Unavailable, "SERVER_DRAINING");
}

#[tokio::test]
async fn every_answer_names_the_call_and_forged_identities_are_nobody() {
    let server = Server::start().await;
    let mut client = ServerServiceClient::new(server.channel().await);
    let mut forged = Request::new(WhoAmIRequest {});
    forged.metadata_mut().insert("x-forwarded-client-cert", "URI=spiffe://mesh/admin".parse().unwrap());
    forged.metadata_mut().insert("x-request-id", "call-7".parse().unwrap());
    let status = client.who_am_i(forged).await.unwrap_err();
    crate::stream::assert_error(&status, tonic::Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "call-7");
    let mut known = Request::new(ShowServerRequest {});
    known.metadata_mut().insert("authorization", format!("Bearer {}", server.admin_token()).parse().unwrap());
    let answer = client.show_server(known).await.unwrap();
    assert!(answer.metadata().contains_key("x-request-id"));
    assert!(!answer.get_ref().draining);
}

#[tokio::test]
async fn a_stop_ends_in_time_although_a_client_never_reads() {
    let server = Server::start_with(|settings| {
        settings.drain_grace = Duration::from_secs(1);
        settings.drain_delay = Duration::ZERO;
    })
    .await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = crate::stream::Stream::open(&admin, crate::stream::open("default.s", "deaf")).await;
    stream.numbers(0, 100).await;
    // The client keeps its half open and reads nothing more.
    Box::pin(server.running.stop()).await.unwrap();
    drop(stream);
}
