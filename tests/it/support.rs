//! Why: a server in process on a free port over a memory store, and callers with a token. Never shares anything between tests.

#![expect(clippy::unwrap_used, reason = "what a test stands on holds, or the test fails here")]

use std::sync::Arc;

use datasink::{
    api::pb::{
        Column, ColumnType, CreateAccessTokenRequest, CreateDataSinkRequest, CreatePrincipalRequest, CreateTableRequest, GrantPermissionRequest, ObjectType,
        PermissionKind, PrincipalKind, RecordEncoding, RecordSchema, ScanRowsRequest, data_sink_service_client::DataSinkServiceClient,
        permission_service_client::PermissionServiceClient, push_service_client::PushServiceClient, record_batch, table_service_client::TableServiceClient,
    },
    app::{App, Parts, Running},
    config::Settings,
    domain::PasswordCost,
    store::memory::MemoryStore,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A running server and its folder.
pub struct Server {
    /// The server itself.
    pub running: Running,
    token: String,
    channel: Channel,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With the defaults, but for what a test needs: a free port, receivers on loopback, no pause before the listener closes.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As [`Server::start`], with further settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".to_owned();
        settings.data_dir = folder.path().join("data");
        settings.drain_delay = std::time::Duration::ZERO;
        settings.egress_private = true;
        settings.egress_allow = vec!["127.0.0.0/8".parse().unwrap()];
        change(&mut settings);
        let parts = Parts { store: Some(Arc::new(MemoryStore::new())), passwords: PasswordCost { memory_kib: 64, passes: 1, at_once: 4 }, ..Parts::default() };
        let running = Box::pin(App::start(settings, parts)).await.unwrap();
        let token = std::fs::read_to_string(running.admin_token_file.as_ref().expect("a new server has an admin token")).unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", running.address)).unwrap().connect().await.unwrap();
        Self { running, token: token.trim().to_owned(), channel, _folder: folder }
    }

    /// The first admin's token.
    pub fn admin_token(&self) -> &str {
        &self.token
    }

    /// Calls as the first admin.
    pub fn admin(&self) -> Caller {
        Caller::new(self.channel.clone(), &self.token)
    }

    /// A connection without a token.
    pub async fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// Puts the token into every call.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, Token>;

/// Someone who calls.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    connection: Connection,
}

impl Caller {
    fn new(channel: Channel, token: &str) -> Self {
        let token = Token(format!("Bearer {token}").parse().unwrap());
        Self { connection: InterceptedService::new(channel.clone(), token), channel }
    }

    pub fn sinks(&self) -> DataSinkServiceClient<Connection> {
        DataSinkServiceClient::new(self.connection.clone())
    }

    pub fn push(&self) -> PushServiceClient<Connection> {
        PushServiceClient::new(self.connection.clone()).max_encoding_message_size(usize::MAX)
    }

    pub fn tables(&self) -> TableServiceClient<Connection> {
        TableServiceClient::new(self.connection.clone())
    }

    pub fn permissions(&self) -> PermissionServiceClient<Connection> {
        PermissionServiceClient::new(self.connection.clone())
    }

    /// A table with the one column `n`.
    pub async fn table(&self, name: &str) {
        self.table_of(name, &[("n", ColumnType::Int64)]).await;
    }

    async fn table_of(&self, name: &str, columns: &[(&str, ColumnType)]) {
        let columns =
            columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), r#type: (*kind).into(), nullable: *name == "column", ..Column::default() });
        let schema = Some(RecordSchema { columns: columns.collect() });
        self.tables().create_table(CreateTableRequest { name: name.to_owned(), schema, ..CreateTableRequest::default() }).await.unwrap();
    }

    /// A table with the one column `n`, and a sink onto it.
    pub async fn table_and_sink(&self, table: &str, sink: &str) {
        self.table(table).await;
        let request = CreateDataSinkRequest { name: sink.to_owned(), destination: format!("table://{table}"), ..CreateDataSinkRequest::default() };
        self.sinks().create_data_sink(request).await.unwrap();
    }

    /// A table that takes dead letters.
    pub async fn dead_letter_table(&self, name: &str) {
        let columns = [
            ("stream", ColumnType::String),
            ("offset", ColumnType::Int64),
            ("sink", ColumnType::String),
            ("sink_generation", ColumnType::Int64),
            ("reason", ColumnType::String),
            ("message", ColumnType::String),
            ("column", ColumnType::String),
            ("time", ColumnType::Timestamp),
            ("record_encoding", ColumnType::String),
            ("record", ColumnType::String),
        ];
        self.table_of(name, &columns).await;
    }

    /// Every row, in order.
    pub async fn rows(&self, table: &str) -> Vec<serde_json::Value> {
        let request = ScanRowsRequest { table: table.to_owned(), encoding: RecordEncoding::Ndjson.into(), ..ScanRowsRequest::default() };
        let mut answers = self.tables().scan_rows(request).await.unwrap().into_inner();
        let mut rows = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            let Some(record_batch::Payload::Ndjson(text)) = answer.batch.and_then(|batch| batch.payload) else { continue };
            rows.extend(serde_json::Deserializer::from_slice(&text).into_iter().map(Result::unwrap));
        }
        rows
    }

    /// A user with a token.
    pub async fn user(&self, name: &str) -> Self {
        let request = CreatePrincipalRequest {
            name: name.to_owned(),
            kind: PrincipalKind::User.into(),
            default_schema: "default".to_owned(),
            ..CreatePrincipalRequest::default()
        };
        self.permissions().create_principal(request).await.unwrap();
        let request = CreateAccessTokenRequest { principal: name.to_owned(), ..CreateAccessTokenRequest::default() };
        let made = self.permissions().create_access_token(request).await.unwrap().into_inner();
        Self::new(self.channel.clone(), &made.token)
    }

    /// Gives `principal` a permission.
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
