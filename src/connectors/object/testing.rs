//! Why: what the tests of the kinds of object store share: contexts, servers that answer as told, and what must hold of every bucket. Never compiled into the product.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{Attribute, Attributes, Error, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, path::Path};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::bucket::Bucket;
use crate::{
    clock::Ambient,
    connectors::{
        connector::{ConnectContext, Connector, Kind, Probe, StepResult},
        credential::{CredentialType, OpenCredential},
        destination::Destination,
        egress::{Cloud, Egress, EgressPolicy, Resolver},
        options::{ConfigFault, Options},
    },
    name::QualifiedName,
    secret::Secret,
};

/// The value of a variable that `tests/services/with` sets. Without it a test says that it did not run, or fails where it must.
pub(in crate::connectors) fn server(variable: &str) -> Option<String> {
    let found = std::env::var(variable).ok();
    if found.is_none() {
        assert!(std::env::var_os("CONFORMANCE_REQUIRED").is_none(), "{variable} is not set, and CONFORMANCE_REQUIRED is");
        eprintln!("did not run: {variable} is not set (tests/services/with … -- cargo test)");
    }
    found
}

/// Every name that is no address is this machine.
#[derive(Debug)]
struct EverythingIsHere;

#[async_trait]
impl Resolver for EverythingIsHere {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

/// Every name is where the metadata services are.
#[derive(Debug)]
struct EverythingIsMetadata;

#[async_trait]
impl Resolver for EverythingIsMetadata {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([169, 254, 169, 254])])
    }
}

fn context_with(policy: EgressPolicy, roots: &[u8], resolver: Arc<dyn Resolver>) -> ConnectContext {
    ConnectContext {
        sink: QualifiedName::parse("s.objects", None).expect("a name"),
        credential: None,
        egress: Arc::new(Egress::with_resolver(policy, roots, resolver).expect("an egress")),
        ambient: Ambient::system(),
        connection_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(5),
    }
}

/// A context in which every name is loopback and loopback is allowed, with these variables of a cloud.
pub(in crate::connectors) fn context(roots: &[u8], managed_credentials: bool, variables: &[(&str, &str)]) -> ConnectContext {
    let cloud = Cloud { managed_credentials, variables: owned(variables) };
    context_with(EgressPolicy { private_allowed: true, cloud, ..EgressPolicy::default() }, roots, Arc::new(EverythingIsHere))
}

/// A context in which every name is the metadata services' address, and every other address is allowed.
pub(in crate::connectors) fn hostile_names() -> ConnectContext {
    let allow = vec!["0.0.0.0/0".parse().expect("a network")];
    context_with(EgressPolicy { private_allowed: true, allow, ..EgressPolicy::default() }, b"", Arc::new(EverythingIsMetadata))
}

pub(in crate::connectors) fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl ConnectContext {
    /// The same with a credential.
    pub(in crate::connectors) fn knowing(mut self, credential_type: CredentialType, identity: &str, secret: &str, options: &[(&str, &str)]) -> Self {
        let secret = (!secret.is_empty()).then(|| Secret::from(secret.to_owned()));
        self.credential = Some(OpenCredential {
            credential_type,
            identity: identity.to_owned(),
            secret,
            options: owned(options),
            secret_options: BTreeMap::new(),
            version: 1,
        });
        self
    }
}

/// The options of a kind, checked.
pub(in crate::connectors) fn options(kind: &dyn Kind, given: &[(&str, &str)]) -> Result<Options, Vec<ConfigFault>> {
    Options::check(kind.descriptor().kind.as_str(), kind.descriptor().options, &owned(given))
}

/// A sink of a kind.
pub(in crate::connectors) fn sink(kind: &dyn Kind, destination: &str, given: &[(&str, &str)]) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
    let destination = Destination::parse(destination).map_err(|fault| vec![fault])?;
    kind.configure(&destination, &options(kind, given)?)
}

/// The fields of faults, in order.
pub(in crate::connectors) fn fields(faults: &[ConfigFault]) -> Vec<String> {
    faults.iter().map(|fault| fault.field.trim_start_matches("options[\"").trim_end_matches("\"]").to_owned()).collect()
}

/// A probe as one line: `configuration+ credential+ resolve- connect~ …`.
pub(in crate::connectors) fn line(probe: &Probe) -> String {
    let mark = |result: &StepResult| match result {
        StepResult::Passed => '+',
        StepResult::Failed { .. } => '-',
        StepResult::Skipped => '~',
    };
    probe.steps.iter().map(|step| format!("{}{}", step.name, mark(&step.result))).collect::<Vec<_>>().join(" ")
}

/// The message of the step that failed.
pub(in crate::connectors) fn failure(probe: &Probe) -> String {
    let failed = probe.steps.iter().find_map(|step| match &step.result {
        StepResult::Failed { message, .. } => Some(message.clone()),
        _ => None,
    });
    failed.unwrap_or_default()
}

/// A name that no other test uses.
pub(in crate::connectors) fn fresh(word: &str) -> String {
    format!("{word}-{}", &Uuid::new_v4().simple().to_string()[..12])
}

// ---- servers on loopback ----

/// A request as a server saw it: its head, and its body.
#[derive(Debug, Clone)]
pub(in crate::connectors) struct Seen {
    pub(in crate::connectors) head: String,
    pub(in crate::connectors) body: Bytes,
}

impl Seen {
    /// `METHOD path?query`.
    pub(in crate::connectors) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1")
    }

    /// A header's value, or nothing.
    pub(in crate::connectors) fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map_or("", |(_, value)| value.trim())
    }
}

type Answers = Arc<dyn Fn(&Seen) -> String + Send + Sync>;

/// A server that keeps what it saw and answers as told: status line, headers, blank line, body. One exchange a connection.
pub(in crate::connectors) struct Canned {
    pub(in crate::connectors) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

/// An answer with a body.
pub(in crate::connectors) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

impl Canned {
    pub(in crate::connectors) async fn start(answers: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(answers)).await
    }

    /// The same over TLS, as `host`; and its authority, PEM.
    pub(in crate::connectors) async fn over_tls(host: &str, answers: impl Fn(&Seen) -> String + Send + Sync + 'static) -> (Self, String) {
        let certified = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).expect("a key that fits");
        (Self::serve(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answers)).await, certified.cert.pem())
    }

    async fn serve(tls: Option<TlsAcceptor>, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, seen) = (listener.local_addr().expect("an address"), Arc::new(Mutex::new(Vec::new())));
        let (mut task, kept) = (JoinSet::new(), seen.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, kept, tls) = (answers.clone(), kept.clone(), tls.clone());
                connections.spawn(async move {
                    // A peer that goes away is what some tests are about.
                    let _ = match tls {
                        None => exchange(stream, &answers, &kept).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => exchange(stream, &answers, &kept).await,
                            Err(fault) => Err(fault),
                        },
                    };
                });
            }
        });
        Self { address, seen, _task: task }
    }

    /// What came so far.
    pub(in crate::connectors) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: &Answers, kept: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let mut read = Vec::new();
    let end = loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let mut seen = Seen { head: String::from_utf8_lossy(&read[..end]).into_owned(), body: Bytes::new() };
    let length = seen.header("content-length").parse::<usize>().unwrap_or(0);
    while read.len() < end + length {
        if stream.read_buf(&mut read).await? == 0 {
            break;
        }
    }
    seen.body = Bytes::copy_from_slice(&read[end..]);
    let text = answers(&seen);
    kept.lock().expect("not poisoned").push(seen);
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// A road to a server on which, once `cut`, requests arrive and answers do not.
pub(in crate::connectors) struct Road {
    pub(in crate::connectors) address: SocketAddr,
    pub(in crate::connectors) cut: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Road {
    pub(in crate::connectors) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, cut) = (listener.local_addr().expect("an address"), Arc::new(AtomicBool::new(false)));
        let (mut task, switch) = (JoinSet::new(), cut.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let switch = switch.clone();
                connections.spawn(async move {
                    let _ = carry(client, server, &switch).await;
                });
            }
        });
        Self { address, cut, _task: task }
    }
}

async fn carry(client: TcpStream, server: SocketAddr, cut: &AtomicBool) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) = (client.into_split(), server.into_split());
    let there = tokio::io::copy(&mut client_in, &mut server_out);
    let back = async {
        let mut piece = vec![0; 64 << 10];
        loop {
            let length = server_in.read(&mut piece).await?;
            // The server has answered, so it has acted.
            if length == 0 || (cut.load(Ordering::SeqCst) && !piece.starts_with(b"HTTP/1.1 100")) {
                return io::Result::Ok(());
            }
            client_out.write_all(&piece[..length]).await?;
        }
    };
    tokio::select! { done = there => done.map(|_| ()), done = back => done }
}

// ---- what must hold of every bucket ----

fn create(attributes: Attributes) -> PutOptions {
    PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() }
}

fn marks(next: &str) -> Attributes {
    Attributes::from_iter([(Attribute::Metadata("next".into()), next.to_owned()), (Attribute::ContentType, "application/x-ndjson".to_owned())])
}

async fn next_of(bucket: &Bucket, path: &Path) -> (String, Bytes) {
    let found = bucket.store.get(path).await.expect("the object");
    let next = found.attributes.get(&Attribute::Metadata("next".into())).map(|value| value.to_string()).unwrap_or_default();
    assert_eq!(found.attributes.get(&Attribute::ContentType).map(|value| value.to_string()), Some("application/x-ndjson".to_owned()));
    (next, found.bytes().await.expect("its bytes"))
}

/// Creates whole and in parts, twice each: the second time must be refused and change nothing.
pub(in crate::connectors) async fn laws_of_a_bucket(bucket: &Bucket) {
    let folder = fresh("laws");
    let path = Path::from(format!("{folder}/a b/00000000000000000000.ndjson"));
    let nothing = bucket.store.head(&path).await;
    assert!(matches!(nothing, Err(Error::NotFound { .. })), "{nothing:?}");
    bucket.store.put_opts(&path, PutPayload::from_static(b"one\n"), create(marks("1"))).await.expect("created");
    let again = bucket.store.put_opts(&path, PutPayload::from_static(b"two\n"), create(marks("2"))).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(next_of(bucket, &path).await, ("1".to_owned(), Bytes::from_static(b"one\n")));

    let large = Path::from(format!("{folder}/large.ndjson"));
    let upload = async |fill: u8, next: &str| {
        let options = PutMultipartOptions { attributes: marks(next), ..PutMultipartOptions::default() };
        let id = bucket.parts.create_multipart_opts(&large, options).await?;
        let first = bucket.parts.put_part(&large, &id, 0, PutPayload::from(vec![fill; 5 << 20])).await?;
        let second = bucket.parts.put_part(&large, &id, 1, PutPayload::from(vec![fill; 1000])).await?;
        bucket.parts.complete_multipart(&large, &id, vec![first, second]).await
    };
    upload(b'x', "10").await.expect("completed");
    let (next, bytes) = next_of(bucket, &large).await;
    assert_eq!((next.as_str(), bytes.len(), bytes[bytes.len() - 1]), ("10", (5 << 20) + 1000, b'x'));
    let again = upload(b'y', "20").await;
    if bucket.conditional_completion {
        assert!(matches!(again, Err(Error::AlreadyExists { .. } | Error::Precondition { .. })), "{again:?}");
        assert_eq!(next_of(bucket, &large).await.0, "10");
    }

    let prefix = Path::from(folder);
    let listed: Vec<String> = bucket.store.list(Some(&prefix)).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("a list");
    assert_eq!(listed, [path.to_string(), large.to_string()]);
    let after: Vec<_> = bucket.store.list_with_offset(Some(&prefix), &path).map_ok(|meta| meta.location).try_collect().await.expect("a list");
    assert_eq!(after, std::slice::from_ref(&large));
    for path in [&path, &large] {
        bucket.store.delete(path).await.expect("deleted");
        assert!(matches!(bucket.store.head(path).await, Err(Error::NotFound { .. })));
    }
}
