//! Why: starts the real program in a folder of its own and sees all that it says. Never inherits the environment and never leaves a process behind.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use datasink::api::pb::{
    Column, ColumnType, CreateAccessTokenRequest, CreateDataSinkRequest, CreatePrincipalRequest, CreateTableRequest, PrincipalKind, RecordEncoding,
    RecordSchema, ScanRowsRequest, credential_service_client::CredentialServiceClient, data_sink_service_client::DataSinkServiceClient,
    permission_service_client::PermissionServiceClient, push_service_client::PushServiceClient, record_batch, server_service_client::ServerServiceClient,
    table_service_client::TableServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;

/// Longer than any honest start or stop on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Set by `tests/run`: what servers leave behind stays, so that it can be looked through for secrets.
const KEPT: &str = "TEST_FILES_KEPT";

/// Where servers run one after another: a folder with the data directory and all output. Gone with the value, unless it is to be kept.
pub struct Place {
    folder: tempfile::TempDir,
    runs: AtomicUsize,
}

impl Place {
    pub fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("datasink-process-").disable_cleanup(std::env::var_os(KEPT).is_some());
        Self { folder: builder.tempdir().expect("a temporary folder"), runs: AtomicUsize::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder can be written");
        path
    }

    /// The program with these arguments and nothing of our environment.
    pub fn program<'p>(&'p self, arguments: &[&str]) -> Run<'p> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_datasink"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.args(arguments).stdin(Stdio::null());
        Run { place: self, command, patience: PATIENCE }
    }

    /// `datasink serve` on a free port with metrics, in [`Self::data_dir`].
    pub fn serve(&self) -> Run<'_> {
        self.program(&["serve", "--data-dir"]).arg(self.data_dir())
    }

    /// A started server with nothing special.
    pub async fn start(&self) -> Server {
        self.serve().start().await
    }

    /// Everything that any run has said on one of its outputs.
    pub fn said(&self, output: &str) -> Vec<u8> {
        (0..self.runs.load(Ordering::SeqCst)).flat_map(|run| fs::read(self.path(&format!("{run}.{output}"))).unwrap_or_default()).collect()
    }
}

/// A program about to run.
pub struct Run<'p> {
    place: &'p Place,
    command: Command,
    patience: Duration,
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}: {}", self.status.signal(), self.stderr))
    }

    /// Fails unless the program ended with this code, said this, and did not panic.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self.no_panic();
    }

    #[track_caller]
    pub fn no_panic(&self) {
        assert_no_panic(&self.stderr);
    }
}

#[track_caller]
pub fn assert_no_panic(stderr: &str) {
    for trace in ["panicked at", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!stderr.contains(trace), "a backtrace is no answer: {stderr}");
    }
}

impl<'p> Run<'p> {
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub fn stdin(mut self, file: &Path) -> Self {
        self.command.stdin(File::open(file).expect("the input is there"));
        self
    }

    fn spawn(mut self) -> Process {
        let run = self.place.runs.fetch_add(1, Ordering::SeqCst);
        let output = |name: &str| {
            let path = self.place.path(&format!("{run}.{name}"));
            (File::create(&path).expect("the folder can be written"), path)
        };
        let ((out, stdout), (err, stderr)) = (output("stdout"), output("stderr"));
        let child = self.command.stdout(out).stderr(err).spawn().expect("the program starts");
        Process { child, stdout, stderr, patience: self.patience, status: None }
    }

    /// Runs in the background.
    pub fn background(self) -> Process {
        self.spawn()
    }

    /// Runs to the end.
    pub async fn end(self) -> Ended {
        self.spawn().end().await
    }

    /// Runs until it says where it listens.
    pub async fn start(self) -> Server {
        self.unless_said("--listen", "127.0.0.1:0").start_as_is().await
    }

    /// Adds a flag that the test did not set itself.
    fn unless_said(self, flag: &str, value: &str) -> Self {
        let said = self.command.get_args().any(|argument| argument == flag);
        if said { self } else { self.args(&[flag, value]) }
    }

    /// As [`Self::start`], without an address of ours: where a file or the environment says it.
    pub async fn start_as_is(self) -> Server {
        // Meshes need the delay, tests only wait for it.
        let run = self.unless_said("--drain-delay", "200ms").unless_said("--metrics-listen", "127.0.0.1:0");
        Server::ready(run.spawn()).await.unwrap_or_else(|ended| panic!("the server did not start ({}): {}", ended.status, tail(&ended.stderr)))
    }

    /// Runs a server that starts or says why not.
    pub async fn attempt(self) -> Result<Server, Ended> {
        let run = self.unless_said("--listen", "127.0.0.1:0").unless_said("--drain-delay", "200ms").unless_said("--metrics-listen", "127.0.0.1:0");
        Server::ready(run.spawn()).await
    }

    /// Runs a server that must refuse to start.
    pub async fn start_refused(self) -> Ended {
        self.unless_said("--listen", "127.0.0.1:0").end().await
    }
}

/// A running program. Killed when dropped.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    patience: Duration,
    status: Option<ExitStatus>,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(fs::read(&self.stdout).expect("its output is kept")).expect("output is text")
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(fs::read(&self.stderr).expect("its output is kept")).expect("output is text")
    }

    /// Waits until these words are in its log: a client may hear of an end before the log has it.
    pub async fn says(&self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.stderr().contains(words) {
            assert!(Instant::now() < until, "{words:?} is never said: {}", tail(&self.stderr()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.id().try_into().expect("ids are small")).expect("it has an id");
        kill_process(id, signal).expect("the process is there to be signalled");
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status
    }

    /// Waits for the end, at most `patience`.
    pub async fn wait(&mut self, patience: Duration) -> ExitStatus {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < until, "still running after {patience:?}; it said: {}", tail(&self.stderr()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn end(mut self) -> Ended {
        let status = self.wait(self.patience).await;
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

/// Zeros that only hold room: nobody needs to look through them.
fn remove_ballast(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_ballast(&entry.path()),
            Ok(_) if entry.file_name() == "ballast" => {
                let _ = fs::remove_file(entry.path());
            }
            _ => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove_ballast(self.folder.path());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the last words of {} ---\n{}", self.stderr.display(), tail(&self.stderr()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A running server.
pub struct Server {
    pub process: Process,
    /// The one line it prints when it is ready.
    pub line: serde_json::Value,
}

impl Server {
    async fn ready(mut process: Process) -> Result<Self, Ended> {
        let until = Instant::now() + PATIENCE;
        let line = loop {
            let said = process.stdout();
            if let Some((line, _)) = said.split_once('\n') {
                break line.to_owned();
            }
            if process.ended().is_some() {
                return Err(process.end().await);
            }
            assert!(Instant::now() < until, "the server is not ready after {PATIENCE:?}: {}", tail(&process.stderr()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let line = serde_json::from_str(&line).unwrap_or_else(|fault| panic!("the ready line is JSON ({fault}): {line}"));
        Ok(Self { process, line })
    }

    /// `HOST:PORT` or `unix:PATH`.
    pub fn address(&self) -> &str {
        self.line["listening"].as_str().expect("the ready line says where")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("an address").connect().await.expect("the server takes connections")
    }

    pub fn token_file(&self) -> PathBuf {
        self.line["admin_token_file"].as_str().expect("the ready line says where the token is").into()
    }

    pub fn admin_token(&self) -> String {
        fs::read_to_string(self.token_file()).expect("the token is readable by its owner").trim().to_owned()
    }

    /// The first admin, on a connection of its own.
    pub async fn admin(&self) -> Caller {
        self.caller(&format!("Bearer {}", self.admin_token())).await
    }

    /// Someone with this `authorization`.
    pub async fn caller(&self, authorization: &str) -> Caller {
        Caller::new(self.channel().await, authorization)
    }

    /// Nobody.
    pub async fn nobody(&self) -> Caller {
        Caller { channel: self.channel().await, identity: Identity(None) }
    }

    pub async fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel().await)
    }

    pub fn metrics(&self) -> String {
        http_get(self.line["metrics"].as_str().and_then(|text| text.parse().ok()).expect("the ready line says where"), "/metrics")
    }

    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Stops it well.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.process.wait(PATIENCE).await;
        assert!(status.success(), "SIGTERM ends with {status}: {}", tail(&self.process.stderr()));
        assert_no_panic(&self.process.stderr());
    }

    /// Ends it as a power cut would, but for what the kernel holds.
    pub async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(PATIENCE).await;
    }
}

/// The body that a plain HTTP server answers.
pub fn http_get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("it listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Sends who is calling with every call.
#[derive(Clone)]
pub struct Identity(Option<MetadataValue<Ascii>>);

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Someone who calls.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    identity: Identity,
}

type Calls = InterceptedService<Channel, Identity>;

impl Caller {
    pub fn new(channel: Channel, authorization: &str) -> Self {
        Self { channel, identity: Identity(Some(authorization.parse().expect("ASCII"))) }
    }

    pub fn anonymous(channel: Channel) -> Self {
        Self { channel, identity: Identity(None) }
    }

    pub fn calls(&self) -> Calls {
        InterceptedService::new(self.channel.clone(), self.identity.clone())
    }

    pub fn push(&self) -> PushServiceClient<Calls> {
        PushServiceClient::new(self.calls())
    }

    pub fn sinks(&self) -> DataSinkServiceClient<Calls> {
        DataSinkServiceClient::new(self.calls())
    }

    pub fn credentials(&self) -> CredentialServiceClient<Calls> {
        CredentialServiceClient::new(self.calls())
    }

    pub fn permissions(&self) -> PermissionServiceClient<Calls> {
        PermissionServiceClient::new(self.calls())
    }

    pub fn tables(&self) -> TableServiceClient<Calls> {
        TableServiceClient::new(self.calls()).max_decoding_message_size(64 << 20)
    }

    pub fn server(&self) -> ServerServiceClient<Calls> {
        ServerServiceClient::new(self.calls())
    }

    /// A table with the one column `n` and a sink of the same name onto it.
    pub async fn local_sink(&self, name: &str) {
        let column = Column { name: "n".to_owned(), r#type: ColumnType::Int64.into(), ..Column::default() };
        let schema = RecordSchema { columns: vec![column] };
        let table = CreateTableRequest { name: name.to_owned(), schema: Some(schema), if_not_exists: true, request_id: String::new() };
        self.tables().create_table(table).await.expect("the table is made");
        let sink = CreateDataSinkRequest { name: name.to_owned(), destination: format!("table://{name}"), ..CreateDataSinkRequest::default() };
        self.sinks().create_data_sink(sink).await.expect("the sink is made");
    }

    /// A user with a token.
    pub async fn user(&self, name: &str) -> String {
        let user = CreatePrincipalRequest { name: name.to_owned(), kind: PrincipalKind::User.into(), ..CreatePrincipalRequest::default() };
        self.permissions().create_principal(user).await.expect("the user is made");
        let token = CreateAccessTokenRequest { principal: name.to_owned(), ..CreateAccessTokenRequest::default() };
        self.permissions().create_access_token(token).await.expect("the token is made").into_inner().token
    }

    /// The values of `n` in a table, sorted.
    pub async fn numbers_in(&self, table: &str) -> Vec<u64> {
        let scan = ScanRowsRequest { table: table.to_owned(), encoding: RecordEncoding::Ndjson.into(), ..ScanRowsRequest::default() };
        let mut answers = self.tables().scan_rows(scan).await.expect("the table can be read").into_inner();
        let mut numbers = Vec::new();
        while let Some(answer) = answers.message().await.expect("the scan goes on") {
            let Some(record_batch::Payload::Ndjson(lines)) = answer.batch.and_then(|batch| batch.payload) else { continue };
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let row: serde_json::Value = serde_json::from_slice(line).expect("NDJSON");
                numbers.push(row["n"].as_u64().or_else(|| row["n"].as_str()?.parse().ok()).expect("a number"));
            }
        }
        numbers.sort_unstable();
        numbers
    }
}
