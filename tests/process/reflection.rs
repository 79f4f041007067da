//! Why: tools learn the interface from the server alone, and probes its health without being anybody. Never needs a file of ours on their side.

use datasink::api::pb::{ShowServerRequest, WhoAmIRequest};
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{server::Place, stream::assert_error};

const SERVICES: [&str; 11] = [
    "CredentialService",
    "DataSinkService",
    "ExportService",
    "FileService",
    "PermissionService",
    "PushService",
    "SchemaService",
    "ServerService",
    "SqlService",
    "TableMonitorService",
    "TableService",
];

/// Both versions of the protocol are the same messages under two packages.
macro_rules! reflection {
    ($name:ident, $pb:path) => {
        #[tokio::test]
        async fn $name() {
            use $pb::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let place = Place::new();
            let server = place.start().await;
            let mut client = ServerReflectionClient::new(server.channel().await);
            let asks = [
                "google.rpc.ErrorInfo",
                "google.rpc.BadRequest",
                "google.rpc.RetryInfo",
                "datasink.v1.PushService",
                "datasink.v1.CreateDataSinkRequest",
                "grpc.health.v1.Health",
            ];
            let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let mut requests = vec![ask(MessageRequest::ListServices(String::new()))];
            requests.extend(asks.iter().map(|symbol| ask(MessageRequest::FileContainingSymbol((*symbol).to_owned()))));
            requests.push(ask(MessageRequest::FileContainingSymbol("datasink.v1.NoSuchThing".to_owned())));
            let mut answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();

            let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else { panic!("a list") };
            let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
            for service in SERVICES {
                assert!(names.contains(&format!("datasink.v1.{service}")), "{service} is not in {names:?}");
            }
            assert_eq!(names.iter().filter(|name| name.starts_with("datasink.")).count(), SERVICES.len());
            assert!(names.iter().any(|name| name == "grpc.health.v1.Health"), "{names:?}");

            for symbol in asks {
                let answer = answers.message().await.unwrap().unwrap().message_response;
                let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("{symbol} does not resolve: {answer:?}") };
                let (package, short) = symbol.rsplit_once('.').unwrap();
                let declares = |file: &FileDescriptorProto| {
                    file.package() == package
                        && (file.message_type.iter().any(|message| message.name() == short) || file.service.iter().any(|service| service.name() == short))
                };
                let files: Vec<_> = files.file_descriptor_proto.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap()).collect();
                assert!(files.iter().any(declares), "{symbol} is not in the file that is said to hold it");
            }
            // tonic answers an unknown symbol with the end of the call.
            match answers.message().await {
                Err(status) => assert_eq!(status.code(), Code::NotFound),
                Ok(answer) => assert!(matches!(answer.unwrap().message_response, Some(MessageResponse::ErrorResponse(_)))),
            }
            server.stop().await;
        }
    };
}

reflection!(version_1_tells_all, tonic_reflection::pb::v1);
reflection!(version_1_alpha_tells_all, tonic_reflection::pb::v1alpha);

#[tokio::test]
async fn health_is_told_per_service_to_anybody() {
    let place = Place::new();
    let server = place.start().await;
    let mut health = server.health().await;
    for service in std::iter::once(String::new()).chain(SERVICES.map(|service| format!("datasink.v1.{service}"))) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await.unwrap_or_else(|status| panic!("{service:?}: {status:?}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
        let mut watch = health.watch(HealthCheckRequest { service: service.clone() }).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving, "{service:?}");
    }
    let status = health.check(HealthCheckRequest { service: "datasink.v1.NoSuchService".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn everything_else_asks_who_is_calling() {
    let place = Place::new();
    let server = place.start().await;
    let nobody = server.nobody().await;
    let status = nobody.server().who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    let status = nobody.server().show_server(ShowServerRequest {}).await.unwrap_err();
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    for wrong in ["Bearer dsk_a_b_c", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Negotiate x", "Bearer a b"] {
        let status = server.caller(wrong).await.server().who_am_i(WhoAmIRequest {}).await.unwrap_err();
        assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
        assert!(!status.message().contains("dsk_a"), "what was sent is not sent back: {}", status.message());
    }
    server.stop().await;
}
