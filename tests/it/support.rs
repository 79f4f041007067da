//! Why: a server of this process on a free port, over a store in memory, and clients of it. Never a mock: every call crosses a socket.

use std::{collections::HashMap, sync::Arc};

use datasink::{
    api::pb::{
        Column, ColumnType, CreateAccessTokenRequest, CreateDataSinkRequest, CreatePrincipalRequest, CreateTableRequest, GrantPermissionRequest, ObjectType,
        PermissionKind, PrincipalKind, RecordEncoding, RecordSchema, ScanRowsRequest, credential_service_client::CredentialServiceClient,
        data_sink_service_client::DataSinkServiceClient, permission_service_client::PermissionServiceClient, push_service_client::PushServiceClient,
        record_batch, server_service_client::ServerServiceClient, table_service_client::TableServiceClient,
    },
    app::{App, Parts, Running},
    clock::Ambient,
    config::Settings,
    domain::PasswordCost,
    store::memory::MemoryStore,
};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A running server; its data go with it.
pub struct Server {
    /// The server itself.
    pub running: Running,
    admin_token: String,
    _dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With settings that the test changes.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_at(Ambient::system(), change).await
    }

    /// With a clock of the test's own.
    pub async fn start_at(ambient: Ambient, change: impl FnOnce(&mut Settings)) -> Self {
        // `tests/run` looks through what servers leave behind.
        let kept = std::env::var_os("TEST_FILES_KEPT").is_some();
        let dir = tempfile::Builder::new().prefix("datasink-it-").disable_cleanup(kept).tempdir().unwrap();
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".to_owned();
        settings.data_dir = dir.path().join("data");
        settings.egress_allow = vec!["127.0.0.0/8".parse().unwrap()];
        change(&mut settings);
        let passwords = PasswordCost { memory_kib: 64, passes: 1, at_once: 4 };
        let parts = Parts { ambient, store: Some(Arc::new(MemoryStore::new())), passwords, ..Parts::default() };
        let running = App::start(settings, parts).await.unwrap();
        let token_file = running.admin_token_file.clone().expect("a fresh server writes the first admin's token");
        let admin_token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        Self { running, admin_token, _dir: dir }
    }

    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    pub async fn channel(&self) -> Channel {
        self.lazy()
    }

    fn lazy(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.running.address)).unwrap().connect_lazy()
    }

    /// Who has this token.
    pub fn caller(&self, token: &str) -> Caller {
        Caller { channel: self.lazy(), token: Token(token.to_owned()) }
    }

    pub fn admin(&self) -> Caller {
        self.caller(&self.admin_token)
    }
}

/// A client with a token.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    token: Token,
}

#[derive(Clone)]
pub struct Token(String);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.0).parse().unwrap());
        Ok(request)
    }
}

type Via = InterceptedService<Channel, Token>;

#[allow(dead_code, reason = "the conformance suite includes this file and uses these")]
impl Caller {
    /// Who has this token, at a server that listens there.
    pub fn at(address: &str, token: &str) -> Self {
        Self { channel: Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy(), token: Token(token.to_owned()) }
    }

    pub fn credentials(&self) -> CredentialServiceClient<Via> {
        CredentialServiceClient::new(self.via())
    }

    pub fn server(&self) -> ServerServiceClient<Via> {
        ServerServiceClient::new(self.via())
    }
}

impl Caller {
    fn via(&self) -> Via {
        InterceptedService::new(self.channel.clone(), self.token.clone())
    }

    pub fn sinks(&self) -> DataSinkServiceClient<Via> {
        DataSinkServiceClient::new(self.via())
    }

    pub fn push(&self) -> PushServiceClient<Via> {
        PushServiceClient::new(self.via()).max_encoding_message_size(64 << 20)
    }

    pub fn tables(&self) -> TableServiceClient<Via> {
        TableServiceClient::new(self.via())
    }

    pub fn permissions(&self) -> PermissionServiceClient<Via> {
        PermissionServiceClient::new(self.via())
    }

    /// A table of one column, `n int64`, and `pad string` beside it.
    pub async fn table(&self, name: &str) {
        self.create_table(name, &[("n", ColumnType::Int64, false), ("pad", ColumnType::String, true)]).await;
    }

    /// A table for dead letters.
    pub async fn dead_letter_table(&self, name: &str) {
        let text = |name| (name, ColumnType::String, true);
        let columns = [
            ("offset", ColumnType::Int64, false),
            ("sink_generation", ColumnType::Int64, true),
            ("time", ColumnType::Timestamp, true),
            text("stream"),
            text("sink"),
            text("reason"),
            text("message"),
            text("column"),
            text("record"),
            text("record_encoding"),
        ];
        self.create_table(name, &columns).await;
    }

    /// A table of these columns: their names, types, and whether null is taken.
    pub async fn create_table(&self, name: &str, columns: &[(&str, ColumnType, bool)]) {
        let columns = columns
            .iter()
            .map(|(name, column_type, nullable)| Column { name: (*name).to_owned(), r#type: (*column_type).into(), nullable: *nullable, ..Column::default() })
            .collect();
        let request = CreateTableRequest { name: name.to_owned(), schema: Some(RecordSchema { columns }), ..CreateTableRequest::default() };
        self.tables().create_table(request).await.unwrap();
    }

    /// A table and a sink onto it.
    pub async fn table_and_sink(&self, table: &str, sink: &str) {
        self.table(table).await;
        let request = CreateDataSinkRequest {
            name: sink.to_owned(),
            destination: format!("table://{table}"),
            options: HashMap::new(),
            ..CreateDataSinkRequest::default()
        };
        self.sinks().create_data_sink(request).await.unwrap();
    }

    /// All rows of a table, as the service reads them back.
    pub async fn rows(&self, table: &str) -> Vec<serde_json::Value> {
        let request = ScanRowsRequest { table: table.to_owned(), encoding: RecordEncoding::Ndjson.into(), ..ScanRowsRequest::default() };
        let mut answers = self.tables().scan_rows(request).await.unwrap().into_inner();
        let mut rows = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            if let Some(record_batch::Payload::Ndjson(lines)) = answer.batch.and_then(|batch| batch.payload) {
                rows.extend(
                    lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()),
                );
            }
        }
        rows
    }

    /// A new user, and a client with a token of it.
    pub async fn user(&self, name: &str) -> Caller {
        let request = CreatePrincipalRequest { name: name.to_owned(), kind: PrincipalKind::User.into(), ..CreatePrincipalRequest::default() };
        self.permissions().create_principal(request).await.unwrap();
        let request = CreateAccessTokenRequest { principal: name.to_owned(), ..CreateAccessTokenRequest::default() };
        let token = self.permissions().create_access_token(request).await.unwrap().into_inner().token;
        Caller { channel: self.channel.clone(), token: Token(token) }
    }

    pub async fn grant(&self, principal: &str, object_type: ObjectType, object: &str, permission: PermissionKind) {
        let request = GrantPermissionRequest {
            principal: principal.to_owned(),
            object_type: object_type.into(),
            object: object.to_owned(),
            permission: permission.into(),
            ..GrantPermissionRequest::default()
        };
        self.permissions().grant_permission(request).await.unwrap();
    }
}
