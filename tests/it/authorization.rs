//! Why: every RPC of the descriptor set is called as nobody, a stranger, one who may only connect, the owner and the admin; an RPC without a row here fails the test.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::StatusExt;

use crate::support::Server;

/// Who calls, in the order of the columns below.
const CALLERS: [&str; 5] = ["nobody", "stranger", "connector", "owner", "admin"];

/// RPC · request · who passes authorization: a letter for each caller, `u` unauthenticated, `d` denied, `p` passes (any other outcome, also a stale etag).
const TABLE: &[(&str, &str, &str)] = &[
    ("SchemaService/CreateSchema", r#"{"name":"other_schema","if_not_exists":true}"#, "uddpp"),
    ("SchemaService/DropSchema", r#"{"name":"no_such_schema"}"#, "udddp"),
    ("SchemaService/ShowSchema", r#"{}"#, "upppp"),
    ("DataSinkService/CreateDataSink", r#"{"name":"walk.new_sink","destination":"table://walk.t","validate_only":true}"#, "uddpp"),
    ("DataSinkService/AlterDataSink", r#"{"name":"walk.s","updates":{"wait_timeout":"30"},"validate_only":true}"#, "uddpp"),
    ("DataSinkService/DropDataSink", r#"{"name":"walk.s","etag":"stale"}"#, "uddpp"),
    ("DataSinkService/ShowDataSink", r#"{"name":"walk.s"}"#, "udppp"),
    ("DataSinkService/TestDataSink", r#"{"name":"walk.s"}"#, "udppp"),
    ("DataSinkService/ShowSinkKinds", r#"{}"#, "upppp"),
    ("CredentialService/CreateCredential", r#"{"name":"walk.new_c","type":"CREDENTIAL_TYPE_REST","secret":"s","validate_only":true}"#, "uddpp"),
    ("CredentialService/AlterCredential", r#"{"name":"walk.c","identity":"me","validate_only":true}"#, "uddpp"),
    ("CredentialService/DropCredential", r#"{"name":"walk.c","etag":"stale"}"#, "uddpp"),
    ("CredentialService/ShowCredential", r#"{"name":"walk.c"}"#, "uddpp"),
    (
        "PermissionService/GrantPermission",
        r#"{"principal":"stranger","object_type":"OBJECT_TYPE_TABLE","object":"walk.t","permission":"PERMISSION_KIND_DELETE"}"#,
        "uddpp",
    ),
    (
        "PermissionService/RevokePermission",
        r#"{"principal":"stranger","object_type":"OBJECT_TYPE_TABLE","object":"walk.t","permission":"PERMISSION_KIND_DELETE","if_exists":true}"#,
        "uddpp",
    ),
    ("PermissionService/ShowPermission", r#"{}"#, "upppp"),
    ("PermissionService/CheckPermission", r#"{"object_type":"OBJECT_TYPE_DATA_SINK","object":"walk.s","permission":"PERMISSION_KIND_CONNECT"}"#, "upppp"),
    ("PermissionService/CreatePrincipal", r#"{"name":"somebody","kind":"PRINCIPAL_KIND_USER","if_not_exists":true}"#, "udddp"),
    ("PermissionService/AlterPrincipal", r#"{"name":"stranger","etag":"stale","disabled":true}"#, "udddp"),
    ("PermissionService/DropPrincipal", r#"{"name":"stranger","etag":"stale"}"#, "udddp"),
    ("PermissionService/ShowPrincipal", r#"{}"#, "upppp"),
    ("PermissionService/GrantRole", r#"{"role":"readers","member":"somebody"}"#, "udddp"),
    ("PermissionService/RevokeRole", r#"{"role":"readers","member":"somebody","if_exists":true}"#, "udddp"),
    ("PermissionService/CreateAccessToken", r#"{"principal":"owner"}"#, "uddpp"),
    ("PermissionService/RevokeAccessToken", r#"{"id":"nosuchtoken"}"#, "udddp"),
    ("PermissionService/ShowAccessToken", r#"{}"#, "upppp"),
    ("PushService/Push", r#"{"open":{"data_sink":"walk.s","stream":"walk"}}"#, "udppp"),
    ("PushService/PushOnce", r#"{"data_sink":"walk.s","batch":{"json":{"records":[{"id":1}]}},"validate_only":true}"#, "udppp"),
    ("PushService/ShowPushStream", r#"{}"#, "upppp"),
    // Whoever may write may also forget a stream of its own; another's takes admin on the sink (see the domain's tests).
    ("PushService/DropPushStream", r#"{"data_sink":"walk.s","stream":"never","if_exists":true}"#, "udppp"),
    ("TableService/CreateTable", r#"{"name":"walk.t","schema":{"columns":[{"name":"id","type":"COLUMN_TYPE_INT64"}]},"if_not_exists":true}"#, "uddpp"),
    ("TableService/DropTable", r#"{"name":"walk.t","etag":"stale"}"#, "uddpp"),
    ("TableService/ShowTable", r#"{"name":"walk.t"}"#, "uddpp"),
    ("TableService/InsertRows", r#"{"table":"walk.t","batch":{"json":{"records":[{"id":2}]}}}"#, "uddpp"),
    ("TableService/UpdateRows", r#"{"table":"walk.t"}"#, "uddpp"),
    ("TableService/DeleteRows", r#"{"table":"walk.t"}"#, "uddpp"),
    ("TableService/ScanRows", r#"{"table":"walk.t"}"#, "uddpp"),
    ("ServerService/ShowServer", r#"{}"#, "upppp"),
    ("ServerService/WhoAmI", r#"{}"#, "upppp"),
    ("ServerService/DrainServer", r#"{"grace":"1s"}"#, "udddd"),
    // Later work fills these in: whoever is known gets UNIMPLEMENTED, which is no leak.
    ("TableMonitorService/CreateTableMonitor", r#"{}"#, "upppp"),
    ("TableMonitorService/AlterTableMonitor", r#"{}"#, "upppp"),
    ("TableMonitorService/DropTableMonitor", r#"{}"#, "upppp"),
    ("TableMonitorService/ShowTableMonitor", r#"{}"#, "upppp"),
    ("TableMonitorService/WatchTableMonitor", r#"{}"#, "upppp"),
    ("ExportService/CreateExportJob", r#"{}"#, "upppp"),
    ("ExportService/WaitExportJob", r#"{}"#, "upppp"),
    ("ExportService/CancelExportJob", r#"{}"#, "upppp"),
    ("ExportService/ShowExportJob", r#"{}"#, "upppp"),
    ("ExportService/DropExportJob", r#"{}"#, "upppp"),
    ("SqlService/ExecuteSql", r#"{}"#, "upppp"),
    ("FileService/UploadFile", r#"{}"#, "upppp"),
    ("FileService/DownloadFile", r#"{}"#, "upppp"),
    ("FileService/ShowFile", r#"{}"#, "upppp"),
    ("FileService/DropFile", r#"{}"#, "upppp"),
];

#[tokio::test]
async fn every_rpc_authorizes_every_caller() {
    let server = Server::start().await;
    let pool = DescriptorPool::decode(datasink::api::pb::DESCRIPTORS).expect("the server's own descriptors");
    let tokens = world(&server, &pool).await;
    let mut faults = Vec::new();
    let mut seen = 0;
    for service in pool.services().filter(|service| service.package_name() == "datasink.v1") {
        for method in service.methods() {
            let path = format!("{}/{}", service.name(), method.name());
            let Some((_, request, expected)) = TABLE.iter().find(|(name, ..)| *name == path) else {
                faults.push(format!("{path} has no row in the table"));
                continue;
            };
            seen += 1;
            // Draining ends the walk, so the admin's right to it is shown in the shutdown tests.
            let callers = if path == "ServerService/DrainServer" { &CALLERS[..4] } else { &CALLERS[..] };
            for (caller, letter) in callers.iter().zip(expected.chars()) {
                let status = call(&server, &pool, &path, request, tokens.get(caller).map(String::as_str)).await;
                if let Some(fault) = judge(letter, &status) {
                    faults.push(format!("{path} as {caller}: {fault}, but was {:?} {:?}", status.code(), status.message()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(seen, TABLE.len(), "rows for RPCs that do not exist");
}

/// What is wrong with the outcome, where `letter` says what it should be.
fn judge(letter: char, status: &Status) -> Option<String> {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default();
    match letter {
        'u' if status.code() == Code::Unauthenticated && reason == "ERROR_REASON_UNAUTHENTICATED" => None,
        'd' if status.code() == Code::PermissionDenied && reason == "ERROR_REASON_PERMISSION_DENIED" => None,
        'p' if status.code() != Code::Ok && reason.is_empty() => Some("should carry ErrorInfo".to_owned()),
        'p' if !matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Internal | Code::Unknown) => None,
        'u' => Some("should be unauthenticated".to_owned()),
        'd' => Some("should be denied".to_owned()),
        _ => Some("should pass authorization".to_owned()),
    }
}

/// A schema with a table, a credential and a sink of `owner`; tokens by caller.
async fn world(server: &Server, pool: &DescriptorPool) -> BTreeMap<&'static str, String> {
    let admin = Some(server.admin_token());
    let must = async |path: &str, request: &str, token: Option<&str>| {
        let (status, answer) = exchange(server, pool, path, request, token).await;
        assert_eq!(status.code(), Code::Ok, "{path} {request}: {}", status.message());
        answer
    };
    must("SchemaService/CreateSchema", r#"{"name":"walk"}"#, admin).await;
    must("PermissionService/CreatePrincipal", r#"{"name":"readers","kind":"PRINCIPAL_KIND_ROLE"}"#, admin).await;
    let mut tokens = BTreeMap::from([("admin", server.admin_token().to_owned())]);
    for user in ["stranger", "connector", "owner"] {
        must("PermissionService/CreatePrincipal", &format!(r#"{{"name":"{user}","kind":"PRINCIPAL_KIND_USER"}}"#), admin).await;
        let answer = must("PermissionService/CreateAccessToken", &format!(r#"{{"principal":"{user}"}}"#), admin).await;
        let answer = answer.expect("a token");
        tokens.insert(user, answer.get_field_by_name("token").and_then(|token| token.as_str().map(str::to_owned)).expect("a token"));
    }
    for kind in ["TABLE", "DATA_SINK", "CREDENTIAL"] {
        let grant = format!(r#"{{"principal":"owner","object_type":"OBJECT_TYPE_{kind}","object":"walk","permission":"PERMISSION_KIND_CREATE"}}"#);
        must("PermissionService/GrantPermission", &grant, admin).await;
    }
    let grant = r#"{"principal":"owner","object_type":"OBJECT_TYPE_SYSTEM","permission":"PERMISSION_KIND_CREATE"}"#;
    must("PermissionService/GrantPermission", grant, admin).await;
    let owner = tokens.get("owner").map(String::as_str);
    must("TableService/CreateTable", r#"{"name":"walk.t","schema":{"columns":[{"name":"id","type":"COLUMN_TYPE_INT64"}]}}"#, owner).await;
    must("CredentialService/CreateCredential", r#"{"name":"walk.c","type":"CREDENTIAL_TYPE_REST","secret":"s"}"#, owner).await;
    must("DataSinkService/CreateDataSink", r#"{"name":"walk.s","destination":"table://walk.t"}"#, owner).await;
    let grant = r#"{"principal":"connector","object_type":"OBJECT_TYPE_DATA_SINK","object":"walk.s","permission":"PERMISSION_KIND_CONNECT"}"#;
    must("PermissionService/GrantPermission", grant, owner).await;
    tokens
}

async fn call(server: &Server, pool: &DescriptorPool, path: &str, request: &str, token: Option<&str>) -> Status {
    exchange(server, pool, path, request, token).await.0
}

/// One request message, then half-close; the status and the first answer. Streaming covers all four shapes of an RPC on the wire.
async fn exchange(server: &Server, pool: &DescriptorPool, path: &str, request: &str, token: Option<&str>) -> (Status, Option<DynamicMessage>) {
    let (service, method) = path.split_once('/').expect("Service/Method");
    let method = pool.get_service_by_name(&format!("datasink.v1.{service}")).and_then(|s| s.methods().find(|m| m.name() == method)).expect("a known method");
    let message = DynamicMessage::deserialize(method.input(), &mut serde_json::Deserializer::from_str(request)).expect("a request of the method's type");
    let mut call = Request::new(tokio_stream::iter([Bytes::from(message.encode_to_vec())]));
    if let Some(token) = token {
        call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token is ASCII"));
    }
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.expect("a server");
    let path = format!("/datasink.v1.{path}").parse().expect("a path");
    let mut answers = match client.streaming(call, path, Raw).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (status, None),
    };
    let mut first = None;
    loop {
        match answers.message().await {
            Ok(Some(bytes)) => first = first.or_else(|| DynamicMessage::decode(method.output(), bytes).ok()),
            Ok(None) => return (Status::ok(""), first),
            Err(status) => return (status, first),
        }
    }
}

/// Messages as bytes: the descriptors are looked up here, not at compile time.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
