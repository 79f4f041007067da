//! Why: every way in — plaintext, TLS, client certificates, a Unix socket — and what is turned away at the door. Never trusts a library's own word for what the peer showed.

use std::{path::Path, sync::Arc, time::Duration};

use datasink::api::pb::{
    CreateAccessTokenRequest, CreatePrincipalRequest, IdentitySource, PrincipalKind, PushOnceRequest, RecordBatch, RevokeAccessTokenRequest, ShowServerRequest,
    WhoAmIRequest, WhoAmIResponse, push_response, record_batch,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tonic::{
    Code, Request,
    codec::CompressionEncoding,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    server::{Caller, PATIENCE, Place, Run, Server},
    stream::{Next, Stream, assert_error, fact, numbers, open},
};

/// An authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, subject: &str, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> Signed {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn server(&self) -> Signed {
        let names = vec![SanType::DnsName("localhost".try_into().expect("ASCII")), SanType::IpAddress([127, 0, 0, 1].into())];
        self.sign("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, ids: &[&str]) -> Signed {
        let names = ids.iter().map(|id| SanType::URI((*id).try_into().expect("ASCII"))).collect();
        self.sign("client", names, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

fn with_certificate<'p>(place: &'p Place, signed: &Signed) -> Run<'p> {
    let (certificate, key) = (place.file("tls.crt", &signed.certificate), place.file("tls.key", &signed.key));
    place.serve().arg("--tls-certificate").arg(certificate).arg("--tls-key").arg(key)
}

/// Connects over TLS, or says why not: a client learns of a refused certificate only with its first call.
async fn who_over_tls(server: &Server, authority: &Authority, identity: Option<&Signed>, authorization: Option<&str>) -> Result<WhoAmIResponse, tonic::Status> {
    let channel = tls_channel(server, authority, identity).await.map_err(|fault| tonic::Status::unknown(format!("no connection: {fault:?}")))?;
    let caller = match authorization {
        Some(value) => Caller::new(channel, value),
        None => Caller::anonymous(channel),
    };
    Ok(caller.server().who_am_i(WhoAmIRequest {}).await?.into_inner())
}

async fn tls_channel(server: &Server, authority: &Authority, identity: Option<&Signed>) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost");
    if let Some(signed) = identity {
        tls = tls.identity(Identity::from_pem(&signed.certificate, &signed.key));
    }
    Endpoint::from_shared(format!("https://{}", server.address())).expect("an address").tls_config(tls)?.connect().await
}

/// The leaf that a new connection is shown.
async fn leaf(server: &Server, authority: &Authority) -> CertificateDer<'static> {
    handshake(server, authority, rustls::ALL_VERSIONS).await.expect("a handshake")
}

/// Shakes hands in one of these versions; gives the server's leaf.
async fn handshake(server: &Server, authority: &Authority, versions: &[&'static rustls::SupportedProtocolVersion]) -> std::io::Result<CertificateDer<'static>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring knows them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = tokio::net::TcpStream::connect(server.address()).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, connection).await?;
    Ok(stream.get_ref().1.peer_certificates().expect("servers show one")[0].clone().into_owned())
}

#[tokio::test]
async fn plaintext_http_2_with_prior_knowledge() {
    let place = Place::new();
    let server = place.start().await;
    let who = server.admin().await.server().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.principal.as_str(), who.source()), ("admin", IdentitySource::Token));
    assert!(who.peer.starts_with("127.0.0.1:"), "{}", who.peer);
    server.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_its_owner_and_goes_with_the_server() {
    let place = Place::new();
    let path = place.path("datasink.sock");
    let server = place.serve().args(&["--listen", &format!("unix:{}", path.display())]).start().await;
    assert_eq!(server.address(), format!("unix:{}", path.display()));
    let channel = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap().connect().await.unwrap();
    let caller = Caller::new(channel.clone(), &format!("Bearer {}", server.admin_token()));
    assert_eq!(caller.server().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().principal, "admin");
    let status = Caller::anonymous(channel).server().who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    server.stop().await;
    assert!(!path.exists(), "the socket's file goes with the server");
}

#[tokio::test]
async fn tls_serves_those_who_trust_its_authority_and_speaks_no_plaintext() {
    let (place, authority) = (Place::new(), Authority::new("datasink test authority"));
    let server = with_certificate(&place, &authority.server()).start().await;
    let token = format!("Bearer {}", server.admin_token());
    assert_eq!(who_over_tls(&server, &authority, None, Some(&token)).await.unwrap().principal, "admin");
    let stranger = who_over_tls(&server, &Authority::new("another"), None, Some(&token)).await.unwrap_err();
    assert!(stranger.message().contains("UnknownIssuer"), "{stranger:?}");
    let plain = Endpoint::from_shared(server.url()).unwrap().connect().await;
    let refused = match plain {
        Err(_) => true,
        Ok(channel) => Caller::new(channel, &token).server().who_am_i(WhoAmIRequest {}).await.is_err(),
    };
    assert!(refused, "plaintext must not pass on a TLS port");
    server.stop().await;
}

#[tokio::test]
async fn the_older_tls_and_nameless_clients_are_taken_only_where_settings_say_so() {
    let (place, authority) = (Place::new(), Authority::new("datasink test authority"));
    let server = with_certificate(&place, &authority.server()).start().await;
    assert!(handshake(&server, &authority, &[&rustls::version::TLS12]).await.is_err());
    assert!(handshake(&server, &authority, &[&rustls::version::TLS13]).await.is_ok());
    server.stop().await;
    let server = with_certificate(&place, &authority.server()).args(&["--set", "tls_1_2=true"]).start().await;
    assert!(handshake(&server, &authority, &[&rustls::version::TLS12]).await.is_ok());
    let token = format!("Bearer {}", server.admin_token());
    server.stop().await;

    let trusted = place.file("clients.crt", authority.pem());
    let server = with_certificate(&place, &authority.server()).arg("--tls-client-ca").arg(&trusted).args(&["--set", "tls_client_required=true"]).start().await;
    assert_no_identity(who_over_tls(&server, &authority, None, Some(&token)).await, "no certificate where one is required");
    let known = authority.client(&["spiffe://mesh.example/operator"]);
    assert_eq!(who_over_tls(&server, &authority, Some(&known), Some(&token)).await.unwrap().source(), IdentitySource::Token);
    server.stop().await;
}

#[tokio::test]
async fn a_client_certificate_proves_one_spiffe_id() {
    let (place, authority) = (Place::new(), Authority::new("datasink test authority"));
    let trusted = place.file("clients.crt", authority.pem());
    let server = with_certificate(&place, &authority.server()).arg("--tls-client-ca").arg(&trusted).start().await;
    let token = format!("Bearer {}", server.admin_token());
    let id = "spiffe://mesh.example/ns/orders/sa/writer";
    let writer = authority.client(&[id]);

    // Nobody has that identity yet: the certificate is proven, the principal is not there.
    let status = who_over_tls(&server, &authority, Some(&writer), None).await.unwrap_err();
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");

    let admin = Caller::new(tls_channel(&server, &authority, Some(&authority.client(&["spiffe://mesh.example/operator"]))).await.unwrap(), &token);
    let principal = CreatePrincipalRequest {
        name: "writer".to_owned(),
        kind: PrincipalKind::User.into(),
        identities: vec![id.to_owned()],
        ..CreatePrincipalRequest::default()
    };
    admin.permissions().create_principal(principal).await.unwrap();
    let who = who_over_tls(&server, &authority, Some(&writer), None).await.unwrap();
    assert_eq!((who.principal.as_str(), who.source(), who.identity.as_str()), ("writer", IdentitySource::ClientCertificate, id));

    let wrong = Authority::new("another");
    assert_no_identity(who_over_tls(&server, &authority, Some(&wrong.client(&[id])), None).await, "a certificate of another authority");
    let two = authority.client(&[id, "spiffe://mesh.example/ns/orders/sa/reader"]);
    assert_no_identity(who_over_tls(&server, &authority, Some(&two), None).await, "two SPIFFE ids");
    // The client sees no more than a connection that closed; the operator sees why.
    server.process.says("UnknownIssuer").await;
    server.process.says("two SPIFFE ids").await;
    assert!(server.metrics().contains("datasink_tls_handshakes_failed_total "), "refused handshakes are counted");
    server.stop().await;
}

#[track_caller]
fn assert_no_identity(answer: Result<WhoAmIResponse, tonic::Status>, what: &str) {
    let status = answer.expect_err(what);
    // Refused in the handshake: the status is the client's own, and which one depends on who noticed first.
    assert!(status.details().is_empty(), "{what}: {status:?}");
}

#[tokio::test]
async fn swapped_certificate_files_serve_new_connections_and_spare_old_streams() {
    let (place, authority) = (Place::new(), Authority::new("datasink test authority"));
    let server = with_certificate(&place, &authority.server()).start().await;
    let first = leaf(&server, &authority).await;
    let caller = Caller::new(tls_channel(&server, &authority, None).await.unwrap(), &format!("Bearer {}", server.admin_token()));
    caller.local_sink("default.t").await;
    let (mut stream, _) = Stream::open(&caller, open("default.t", "old")).await;
    stream.numbers(0, 3).await;
    stream.flush("before").await;
    stream.flushed("before").await;

    let renewed = authority.server();
    replace(&place.path("tls.key"), &renewed.key);
    replace(&place.path("tls.crt"), &renewed.certificate);
    let expected = CertificateDer::from_pem_slice(renewed.certificate.as_bytes()).unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    while leaf(&server, &authority).await != expected {
        assert!(std::time::Instant::now() < until, "new connections are still shown the old certificate");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_ne!(first, expected);

    stream.numbers(3, 3).await;
    stream.finish().await;
    assert_eq!(stream.ended().await.next_offset, 6, "the old stream lives");
    drop((stream, caller));
    server.stop().await;
}

/// As a secret store's agent does it: whole files only.
fn replace(path: &Path, content: &str) {
    let part = path.with_extension("part");
    std::fs::write(&part, content).unwrap();
    std::fs::rename(part, path).unwrap();
}

#[tokio::test]
async fn a_public_address_without_tls_is_refused() {
    let place = Place::new();
    place.serve().args(&["--listen", "0.0.0.0:0"]).start_refused().await.refused(64, &["0.0.0.0", "TLS"]);
    let place = Place::new();
    place.serve().args(&["--listen", "[::]:0"]).start_refused().await.refused(64, &["TLS"]);
}

#[tokio::test]
async fn an_anonymous_admin_is_for_loopback_only() {
    let place = Place::new();
    let open_door = place.serve().args(&["--insecure-anonymous-admin", "--insecure-listen", "--listen", "0.0.0.0:0"]).start_refused().await;
    open_door.refused(64, &["insecure_anonymous_admin", "loopback"]);
    let authority = Authority::new("datasink test authority");
    let over_tls = with_certificate(&place, &authority.server()).args(&["--insecure-anonymous-admin", "--listen", "0.0.0.0:0"]).start_refused().await;
    over_tls.refused(64, &["insecure_anonymous_admin", "loopback"]);

    let server = place.serve().arg("--insecure-anonymous-admin").start().await;
    let who = server.nobody().await.server().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.principal.as_str(), who.source()), ("admin", IdentitySource::Anonymous));
    server.process.says("open to whoever reaches it").await;
    server.stop().await;
}

#[tokio::test]
async fn files_of_tls_that_do_not_fit_are_named() {
    let (place, authority) = (Place::new(), Authority::new("datasink test authority"));
    let (one, other) = (authority.server(), authority.server());
    let mixed = Signed { certificate: one.certificate, key: other.key };
    with_certificate(&place, &mixed).start_refused().await.refused(64, &["tls.key"]);
    let half = place.file("tls.crt", authority.server().certificate);
    place.serve().arg("--tls-certificate").arg(half).start_refused().await.refused(64, &["tls"]);
}

#[tokio::test]
async fn a_revoked_token_ends_the_stream_that_it_opened() {
    let place = Place::new();
    let server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let made = admin.permissions().create_access_token(CreateAccessTokenRequest::default()).await.unwrap().into_inner();
    let caller = server.caller(&format!("Bearer {}", made.token)).await;
    let (mut stream, _) = Stream::open(&caller, open("default.t", "s")).await;
    let (mut other, _) = Stream::open(&admin, open("default.t", "other")).await;
    let revoke = RevokeAccessTokenRequest { id: made.access_token.unwrap().id, ..RevokeAccessTokenRequest::default() };
    admin.permissions().revoke_access_token(revoke).await.unwrap();
    assert_error(&stream.failure().await, Code::Unauthenticated, "UNAUTHENTICATED");
    let status = caller.server().who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    other.numbers(0, 3).await;
    other.finish().await;
    assert_eq!(other.ended().await.next_offset, 3, "streams of other tokens go on");
    drop((stream, other, caller, admin));
    server.stop().await;
}

#[tokio::test]
async fn compressed_requests_are_read() {
    let place = Place::new();
    let server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let mut offset = 0;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let request = PushOnceRequest {
            data_sink: "default.t".to_owned(),
            stream: "compressed".to_owned(),
            batch: Some(numbers(Some(offset), 1_000)),
            ..PushOnceRequest::default()
        };
        let answer = admin.push().send_compressed(encoding).push_once(request).await.unwrap_or_else(|status| panic!("{encoding:?}: {status:?}"));
        offset += 1_000;
        assert_eq!(answer.into_inner().next_offset.unsigned_abs(), offset);
    }
    assert_eq!(admin.numbers_in("default.t").await.len(), 2_000);
    server.stop().await;
}

#[tokio::test]
async fn a_header_of_40_kb_passes() {
    let place = Place::new();
    let server = place.start().await;
    let mut request = Request::new(ShowServerRequest {});
    // What a chain of sidecars makes of x-forwarded-client-cert.
    let chain = format!("By=spiffe://mesh.example/a;Hash={};URI=spiffe://mesh.example/b", "0".repeat(40 << 10));
    request.metadata_mut().insert("x-forwarded-client-cert", chain.parse().unwrap());
    server.admin().await.server().show_server(request).await.expect("a long chain of proxies is no reason to refuse");
    server.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_told_so_and_spares_the_connection() {
    let place = Place::new();
    let server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let large = |bytes: usize| PushOnceRequest { data_sink: "default.t".to_owned(), batch: Some(blob(bytes)), ..PushOnceRequest::default() };
    let status = admin.push().push_once(large(17 << 20)).await.unwrap_err();
    assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert_eq!(fact(&status, "limit_bytes"), (16 << 20).to_string());

    // 64 MiB of one character are some 64 KiB on the wire.
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let status = admin.push().send_compressed(encoding).push_once(large(64 << 20)).await.unwrap_err();
        assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    }

    let (mut stream, _) = Stream::open(&admin, open("default.t", "large")).await;
    stream.send(datasink::api::pb::push_request::Frame::Batch(blob(17 << 20))).await;
    let status = loop {
        match stream.next().await {
            Next::Failed(status) => break status,
            Next::Frame(push_response::Frame::Heartbeat(_) | push_response::Frame::Window(_)) => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    admin.server().who_am_i(WhoAmIRequest {}).await.expect("the connection is as good as before");
    server.stop().await;
}

fn blob(bytes: usize) -> RecordBatch {
    RecordBatch { payload: Some(record_batch::Payload::Ndjson(vec![b' '; bytes].into())), ..RecordBatch::default() }
}

fn health<'p>(place: &'p Place, address: &str) -> Run<'p> {
    place.program(&["health", "--address", address])
}

#[tokio::test]
async fn the_health_command_tells_by_its_exit_code_over_every_way_in() {
    let place = Place::new();
    let authority = Authority::new("authority");
    let ca = place.file("ca.pem", authority.pem());

    let server = with_certificate(&place, &authority.server()).start().await;
    let https = format!("https://{}", server.address());
    let ended = health(&place, &https).arg("--ca-file").arg(&ca).end().await;
    assert_eq!((ended.code(), ended.stdout.trim()), (0, "SERVING"), "{}", ended.stderr);
    // An authority that nobody trusts, and plain text where there is TLS.
    health(&place, &https).end().await.refused(69, &[server.address()]);
    health(&place, &server.url()).end().await.refused(69, &[server.address()]);
    server.stop().await;

    let socket = place.path("health.sock");
    let server = place.serve().args(&["--listen", &format!("unix:{}", socket.display())]).start().await;
    let unix = format!("unix://{}", socket.display());
    let ended = health(&place, &unix).args(&["--service", "datasink.v1.PushService"]).end().await;
    assert_eq!((ended.code(), ended.stdout.trim()), (0, "SERVING datasink.v1.PushService"), "{}", ended.stderr);
    server.stop().await;
    health(&place, &unix).end().await.refused(69, &[&unix]);

    let mut server = place.serve().args(&["--drain-delay", "20s"]).start().await;
    let url = server.url();
    assert_eq!(health(&place, &url).end().await.code(), 0);
    health(&place, &url).args(&["--service", "datasink.v1.NoService"]).end().await.refused(65, &["datasink.v1.NoService"]);
    health(&place, "nonsense").end().await.refused(64, &["nonsense"]);
    server.process.signal(Signal::TERM);
    let drained = async {
        loop {
            let ended = health(&place, &url).args(&["--service", "datasink.v1.PushService"]).end().await;
            if ended.code() != 0 {
                return ended;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, drained).await.expect("a drain is seen");
    assert_eq!((ended.code(), ended.stdout.trim()), (1, "NOT_SERVING datasink.v1.PushService"), "{}", ended.stderr);
    server.process.signal(Signal::TERM);
    server.process.wait(PATIENCE).await;
}
