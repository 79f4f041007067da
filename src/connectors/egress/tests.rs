//! What must never be reached, and what a name that changes its mind gets.

use std::{collections::VecDeque, sync::Mutex};

use super::*;

const KINDS: [SinkKind; 2] = [SinkKind::Webhook, SinkKind::Kafka];

fn egress(policy: EgressPolicy) -> Egress {
    Egress::new(policy, b"").expect("no extra roots")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Answers each lookup with the next of its answers, the last one for ever.
#[derive(Debug)]
struct Fickle(Mutex<VecDeque<Vec<IpAddr>>>);

impl Fickle {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(answers.iter().map(|answer| answer.iter().map(|text| ip(text)).collect()).collect())))
    }
}

#[async_trait]
impl Resolver for Fickle {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().expect("not poisoned");
        Ok(if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("an answer"))
    }
}

#[test]
fn what_every_address_is() {
    use AddressClass as C;
    let table = [
        ("1.1.1.1", C::Public),
        ("172.15.255.255", C::Public),
        ("172.32.0.0", C::Public),
        ("100.63.255.255", C::Public),
        ("100.128.0.0", C::Public),
        ("198.17.255.255", C::Public),
        ("192.0.1.0", C::Public),
        ("10.255.255.255", C::Private),
        ("172.16.0.1", C::Private),
        ("172.31.255.255", C::Private),
        ("192.168.1.1", C::Private),
        ("100.64.0.1", C::Private),
        ("127.0.0.1", C::Loopback),
        ("127.255.255.254", C::Loopback),
        ("169.254.169.254", C::LinkLocal),
        ("169.254.170.2", C::LinkLocal),
        ("100.100.100.200", C::Metadata),
        ("168.63.129.16", C::Metadata),
        ("192.0.0.192", C::Metadata),
        ("192.0.0.8", C::Reserved),
        ("192.0.2.1", C::Reserved),
        ("198.51.100.1", C::Reserved),
        ("203.0.113.1", C::Reserved),
        ("198.18.0.1", C::Reserved),
        ("198.19.255.255", C::Reserved),
        ("192.88.99.1", C::Reserved),
        ("240.0.0.1", C::Reserved),
        ("255.255.255.254", C::Reserved),
        ("0.0.0.0", C::MulticastOrUnspecified),
        ("0.1.2.3", C::MulticastOrUnspecified),
        ("224.0.0.1", C::MulticastOrUnspecified),
        ("239.255.255.250", C::MulticastOrUnspecified),
        ("::", C::MulticastOrUnspecified),
        ("::1", C::Loopback),
        ("::2", C::Translated),
        ("::a9fe:a9fe", C::Translated),
        ("::ffff:169.254.169.254", C::LinkLocal),
        ("::ffff:127.0.0.1", C::Loopback),
        ("::ffff:1.1.1.1", C::Public),
        ("::ffff:0:1.1.1.1", C::Translated),
        ("64:ff9b::1.1.1.1", C::Translated),
        ("64:ff9b:1::1.1.1.1", C::Translated),
        ("64:ff9b:2::1", C::Reserved),
        ("100::1", C::Reserved),
        ("2001::1", C::Translated),
        ("2001:2::1", C::Reserved),
        ("2001:20::1", C::Reserved),
        ("2001:db8::1", C::Reserved),
        ("2001:4860:4860::8888", C::Public),
        ("2001:4860::200:5efe:10.0.0.1", C::Translated),
        ("2002:a9fe:a9fe::1", C::Translated),
        ("2606:4700::1111", C::Public),
        ("3fff::1", C::Reserved),
        ("4000::1", C::Reserved),
        ("5f00::1", C::Reserved),
        ("fc00::1", C::Private),
        ("fd12:3456::1", C::Private),
        ("fd00:ec2::254", C::Metadata),
        ("fd20:ce::254", C::Metadata),
        ("fe80::1", C::LinkLocal),
        ("febf::1", C::LinkLocal),
        ("fec0::1", C::Reserved),
        ("ff02::1", C::MulticastOrUnspecified),
    ];
    for (text, class) in table {
        assert_eq!(AddressClass::of(ip(text)), class, "{text}");
    }
}

#[test]
fn no_setting_opens_an_address_that_is_never_a_destination() {
    let open = egress(EgressPolicy { allow: vec![net("0.0.0.0/0"), net("::/0")], private_allowed: true, ..EgressPolicy::default() });
    let never = [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2002:a9fe:a9fe::1",
        "::a9fe:a9fe",
        "::ffff:0:a9fe:a9fe",
        "2001:0:a9fe:a9fe::1",
        // Teredo turns every bit of the client's address.
        "2001:0:0101:0101:0:0:5601:5601",
        "2001:4860::5efe:169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ];
    for text in never {
        for kind in KINDS {
            assert!(matches!(open.check(ip(text), kind), Err(Blocked::Never(_))), "{text} for {kind}");
        }
    }
}

#[test]
fn private_addresses_are_open_to_the_kinds_that_live_there() {
    let default = egress(EgressPolicy::default());
    for text in ["10.0.0.1", "127.0.0.1", "192.168.0.1", "100.64.0.1", "::1", "fd12::1", "::ffff:10.0.0.1"] {
        for kind in [SinkKind::Kafka, SinkKind::Jdbc, SinkKind::Hdfs] {
            assert_eq!(default.check(ip(text), kind), Ok(()), "{text} for {kind}");
        }
        for kind in [SinkKind::Webhook, SinkKind::S3, SinkKind::Gcs, SinkKind::Azure] {
            assert!(matches!(default.check(ip(text), kind), Err(Blocked::ByDefault(_, _))), "{text} for {kind}");
        }
    }
    let open = egress(EgressPolicy { private_allowed: true, ..EgressPolicy::default() });
    assert_eq!(open.check(ip("10.0.0.1"), SinkKind::Webhook), Ok(()));
    assert!(open.check(ip("198.18.0.1"), SinkKind::Webhook).is_err(), "reserved is not private");
}

#[test]
fn lists_open_and_close_networks() {
    let policy = EgressPolicy {
        allow: vec![net("10.1.0.0/16"), net("::ffff:10.2.0.0/112")],
        deny: vec![net("10.1.2.0/24"), net("8.8.8.8/32")],
        ..EgressPolicy::default()
    };
    let listed = egress(policy);
    for (text, allowed) in
        [("10.1.0.1", true), ("::ffff:10.1.0.1", true), ("10.2.0.1", true), ("10.3.0.1", false), ("10.1.2.3", false), ("8.8.8.8", false), ("8.8.4.4", true)]
    {
        assert_eq!(listed.check(ip(text), SinkKind::Webhook).is_ok(), allowed, "{text}");
    }
    assert_eq!(listed.check(ip("8.8.8.8"), SinkKind::Kafka), Err(Blocked::Denied));
}

#[test]
fn an_allowed_translator_leads_only_where_its_end_may_go() {
    let translated = egress(EgressPolicy { allow: vec![net("64:ff9b::/96")], ..EgressPolicy::default() });
    assert_eq!(translated.check(ip("64:ff9b::1.1.1.1"), SinkKind::Webhook), Ok(()));
    assert!(translated.check(ip("64:ff9b::10.0.0.1"), SinkKind::Webhook).is_err());
}

#[test]
fn our_own_listeners_are_no_destination() {
    let listeners = vec!["0.0.0.0:7700".parse().expect("an address"), "10.0.0.5:7701".parse().expect("an address")];
    let own = egress(EgressPolicy { own_listeners: listeners, private_allowed: true, ..EgressPolicy::default() });
    for (text, allowed) in [
        ("127.0.0.1:7700", false),
        ("[::1]:7700", false),
        ("[::ffff:127.0.0.1]:7700", false),
        ("10.0.0.5:7701", false),
        ("127.0.0.1:7702", true),
        ("10.0.0.6:7701", true),
    ] {
        let socket: SocketAddr = text.parse().expect("an address");
        assert_eq!(own.check_socket(socket, SinkKind::Kafka).is_ok(), allowed, "{text}");
    }
}

#[tokio::test]
async fn only_what_passed_is_connected_to_and_inside_addresses_are_not_told() {
    let mixed = Egress::with_resolver(EgressPolicy::default(), b"", Fickle::new(&[&["10.9.8.7", "1.1.1.1", "::ffff:169.254.169.254"], &["10.9.8.7"], &[]]))
        .expect("no extra roots");
    let resolve = || mixed.resolve("mixed.example", 443, SinkKind::Webhook);
    assert_eq!(resolve().await.expect("one passes"), ["1.1.1.1:443".parse().expect("an address")]);
    let fault = resolve().await.expect_err("none passes");
    assert!(matches!(fault, EgressError::Blocked { .. }) && !fault.to_string().contains("10.9.8.7"), "{fault}");
    assert!(matches!(resolve().await, Err(EgressError::Resolve { .. })));
}

#[tokio::test]
async fn hosts_of_raw_protocols_are_read_as_urls_read_them() {
    let default = egress(EgressPolicy::default());
    for host in [
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:a9fe:a9fe]",
        "::ffff:a9fe:a9fe",
        "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
        "169.254.169.254.",
    ] {
        assert!(matches!(default.resolve(host, 9092, SinkKind::Kafka).await, Err(EgressError::Blocked { .. })), "{host}");
    }
    for host in ["fe80::1%eth0", "[fe80::1%25eth0]", "", "a b", "a/b", "user@host", "host:1"] {
        assert!(matches!(default.resolve(host, 9092, SinkKind::Kafka).await, Err(EgressError::NotAHost { .. })), "{host:?}");
    }
}

#[tokio::test]
async fn a_name_that_moves_inside_is_refused_at_the_next_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    // First the allowed loopback address, where nobody answers properly; then the metadata service.
    let policy = EgressPolicy { allow: vec![net("127.0.0.0/8")], ..EgressPolicy::default() };
    let egress = Arc::new(Egress::with_resolver(policy, b"", Fickle::new(&[&["127.0.0.1"], &["169.254.169.254"]])).expect("no extra roots"));
    let limit = Duration::from_secs(5);
    let options = HttpOptions { kind: SinkKind::Webhook, port, connect_timeout: limit, exchange_timeout: limit, loopback_only: false };
    let client = HttpClient::new(&egress, options).expect("a client");
    let url = format!("http://rebind.example:{port}/").parse().expect("a URL");
    let send = || client.request(reqwest::Method::POST, &url).expect("a name passes").send();
    let (first, accepted) = tokio::join!(send(), async { listener.accept().await.map(drop) });
    accepted.expect("the first connection arrives");
    assert!(first.is_err(), "it was closed without an answer");
    let second = send().await.expect_err("the second lookup says metadata");
    let mut chain: Option<&(dyn std::error::Error + 'static)> = Some(&second);
    let mut blocked = false;
    while let Some(fault) = chain {
        blocked |= matches!(fault.downcast_ref::<EgressError>(), Some(EgressError::Blocked { .. }));
        chain = fault.source();
    }
    assert!(blocked, "{second:?}");
}

#[test]
fn a_client_keeps_to_its_port_and_to_loopback() {
    let egress = Arc::new(egress(EgressPolicy::default()));
    let limit = Duration::from_secs(1);
    let options = HttpOptions { kind: SinkKind::Webhook, port: 80, connect_timeout: limit, exchange_timeout: limit, loopback_only: true };
    let client = HttpClient::new(&egress, options).expect("a client");
    let request = |url: &str| client.request(reqwest::Method::POST, &url.parse().expect("a URL")).map(drop);
    assert!(matches!(request("http://1.1.1.1:81/"), Err(EgressError::Client(_))));
    assert!(matches!(request("http://1.1.1.1/"), Err(EgressError::NotLoopback { .. })));
    assert!(matches!(request("http://127.0.0.1/"), Err(EgressError::Blocked { .. })), "loopback, and not allowed to webhooks by default");
}

#[test]
fn extra_roots_that_are_no_certificates_are_refused() {
    let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Egress::new(EgressPolicy::default(), pem), Err(EgressError::Client(_))));
}

/// What a scripted server does after a request.
#[derive(Clone)]
struct Answer {
    /// Written one by one, with a pause between them.
    pieces: Vec<Vec<u8>>,
    then_close: bool,
}

impl Answer {
    fn whole(text: &str) -> Self {
        Self { pieces: vec![text.as_bytes().to_vec()], then_close: false }
    }

    fn ok() -> Self {
        Self::whole("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    }

    fn in_pieces(text: &str) -> Self {
        Self { pieces: text.bytes().map(|byte| vec![byte]).collect(), then_close: false }
    }

    fn then_close(self) -> Self {
        Self { then_close: true, ..self }
    }
}

/// A server that answers its requests, in the order of their arrival over all connections, as the script says, and the last way for ever.
struct Scripted {
    port: u16,
    /// For each request: its connection's number and its body.
    seen: Arc<Mutex<Vec<(usize, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    async fn start(script: Vec<Answer>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = {
            let seen = seen.clone();
            spawn(async move {
                for connection in 0.. {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    spawn(serve(stream, connection, script.clone(), seen.clone()));
                }
            })
        };
        Self { port, seen, task }
    }

    fn connection(&self) -> HttpConnection {
        connection("here.example", self.port, Duration::from_secs(5))
    }

    fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's server ends with the test's runtime")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(future)
}

async fn serve(stream: TcpStream, connection: usize, script: Vec<Answer>, seen: Arc<Mutex<Vec<(usize, String)>>>) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let number = {
            let mut seen = seen.lock().expect("not poisoned");
            seen.push((connection, String::from_utf8(body).expect("text")));
            seen.len() - 1
        };
        let answer = script.get(number).or(script.last()).expect("an answer").clone();
        for piece in answer.pieces {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if answer.then_close {
            return;
        }
    }
}

/// A connection to `host`, which is loopback.
fn connection(host: &str, port: u16, limit: Duration) -> HttpConnection {
    let policy = EgressPolicy { allow: vec![net("127.0.0.0/8")], ..EgressPolicy::default() };
    let egress = Arc::new(Egress::with_resolver(policy, b"", Fickle::new(&[&["127.0.0.1"]])).expect("no extra roots"));
    let options = HttpOptions { kind: SinkKind::Webhook, port, connect_timeout: limit, exchange_timeout: limit, loopback_only: false };
    HttpConnection::new(&egress, options, &format!("http://{host}:{port}/in").parse().expect("a URL")).expect("a connection")
}

async fn post(connection: &HttpConnection, body: &str) -> Result<u16, ExchangeError> {
    let mut request = http::Request::new(body.to_owned().into());
    *request.method_mut() = http::Method::POST;
    connection.exchange(request).await.map(|reply| reply.status().as_u16())
}

#[tokio::test]
async fn exchanges_share_a_connection_whatever_the_form_of_the_answers() {
    let answers = [
        Answer::ok(),
        Answer::whole("HTTP/1.1 204 No Content\r\n\r\n"),
        Answer::whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello"),
        Answer::in_pieces("HTTP/1.1 202 Accepted\r\ncontent-length: 11\r\n\r\nhello world"),
        Answer::in_pieces("HTTP/1.1 422 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        Answer::ok(),
    ];
    let server = Scripted::start(answers.to_vec()).await;
    let connection = server.connection();
    for (number, status) in [200, 204, 201, 202, 422, 200].into_iter().enumerate() {
        assert_eq!(post(&connection, &number.to_string()).await.expect("an answer"), status, "{number}");
    }
    let expected: Vec<(usize, String)> = (0..6).map(|number| (0, number.to_string())).collect();
    assert_eq!(server.seen(), expected);
}

#[tokio::test]
async fn a_connection_that_ended_while_nobody_looked_is_replaced_and_nothing_is_sent_twice() {
    let last_words = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let endings = [
        Answer::ok().then_close(),
        // What some servers say into a connection that they close.
        Answer { pieces: vec![b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), last_words.as_bytes().to_vec()], then_close: true },
        Answer::whole("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").then_close(),
        Answer::whole("HTTP/1.0 200 OK\r\n\r\nas long as it lasts").then_close(),
    ];
    for ending in endings {
        let server = Scripted::start(vec![ending, Answer::ok()]).await;
        let connection = server.connection();
        assert_eq!(post(&connection, "first").await.expect("an answer"), 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(post(&connection, "second").await.expect("an answer over a new connection"), 200);
        assert_eq!(post(&connection, "third").await.expect("an answer"), 200);
        assert_eq!(server.seen(), [(0, "first".to_owned()), (1, "second".to_owned()), (1, "third".to_owned())]);
    }
}

#[tokio::test]
async fn what_may_have_arrived_is_not_sent_again() {
    let nothing = Answer { pieces: Vec::new(), then_close: true };
    let half = Answer::whole("HTTP/1.1 200 OK\r\ncontent-").then_close();
    let garbage = Answer::whole("what?\r\n\r\n").then_close();
    for broken in [nothing, half, garbage] {
        let server = Scripted::start(vec![Answer::ok(), broken, Answer::ok()]).await;
        let connection = server.connection();
        assert_eq!(post(&connection, "first").await.expect("an answer"), 200);
        let fault = post(&connection, "second").await.expect_err("no answer came");
        assert_eq!((fault.stage, fault.kind()), (Stage::Broken, ConnectorErrorKind::Unknown), "{fault}");
        assert_eq!(server.seen(), [(0, "first".to_owned()), (0, "second".to_owned())]);
        assert_eq!(post(&connection, "third").await.expect("an answer over a new connection"), 200);
        assert_eq!(server.seen()[2], (1, "third".to_owned()));
    }
}

#[tokio::test]
async fn an_exchange_that_is_given_up_leaves_no_answer_to_the_next() {
    let late = Answer::in_pieces("HTTP/1.1 500 Late\r\ncontent-length: 0\r\n\r\n");
    let server = Scripted::start(vec![late, Answer::ok()]).await;
    let connection = server.connection();
    let given_up = tokio::time::timeout(Duration::from_millis(10), post(&connection, "first")).await;
    assert!(given_up.is_err(), "its answer takes 40 pieces: {given_up:?}");
    assert_eq!(post(&connection, "second").await.expect("an answer"), 200);
    assert_eq!(server.seen(), [(0, "first".to_owned()), (1, "second".to_owned())]);
}

#[tokio::test]
async fn a_large_body_goes_to_a_slow_reader_whole() {
    let server = Scripted::start(vec![Answer::ok()]).await;
    let (connection, body) = (server.connection(), "x".repeat(8 << 20));
    for _ in 0..3 {
        assert_eq!(post(&connection, &body).await.expect("an answer"), 200);
    }
    assert!(server.seen().iter().all(|(connection, seen)| *connection == 0 && seen.len() == body.len()));
}

#[tokio::test]
async fn a_status_counts_though_its_body_does_not_end() {
    let endless = Answer::whole("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
    let too_long = "x".repeat(1 << 20);
    let too_long = Answer::whole(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{too_long}", too_long.len()));
    for answer in [endless.clone(), endless.then_close(), too_long] {
        let server = Scripted::start(vec![answer, Answer::ok()]).await;
        let connection = connection("here.example", server.port, Duration::from_millis(200));
        assert_eq!(post(&connection, "first").await.expect("a status"), 200);
        assert_eq!(post(&connection, "second").await.expect("an answer"), 200);
        assert_eq!(server.seen(), [(0, "first".to_owned()), (1, "second".to_owned())]);
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_trusted() {
    let server = Scripted::start(vec![Answer::ok()]).await;
    let connection = server.connection();
    let idle = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    assert_eq!(post(&connection, "first").await.expect("an answer"), 200);
    idle(80).await;
    assert_eq!(post(&connection, "second").await.expect("an answer"), 200);
    idle(100).await;
    assert_eq!(post(&connection, "third").await.expect("an answer"), 200);
    assert_eq!(server.seen(), [(0, "first".to_owned()), (0, "second".to_owned()), (1, "third".to_owned())]);
}

#[tokio::test]
async fn every_new_connection_passes_the_filter() {
    let server = Scripted::start(vec![Answer::ok().then_close()]).await;
    let policy = EgressPolicy { allow: vec![net("127.0.0.0/8")], ..EgressPolicy::default() };
    let egress = Arc::new(Egress::with_resolver(policy, b"", Fickle::new(&[&["127.0.0.1"], &["169.254.169.254"]])).expect("no extra roots"));
    let limit = Duration::from_secs(5);
    let options = HttpOptions { kind: SinkKind::Webhook, port: server.port, connect_timeout: limit, exchange_timeout: limit, loopback_only: false };
    let to =
        |host: &str, options| HttpConnection::new(&egress, options, &format!("http://{host}:{}/", server.port).parse().expect("a URL")).expect("a connection");
    let moving = to("rebind.example", options);
    assert_eq!(post(&moving, "first").await.expect("the first lookup says loopback"), 200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let fault = post(&moving, "second").await.expect_err("the second lookup says metadata");
    assert_eq!(fault.stage, Stage::Refused(ConnectorErrorKind::BlockedAddress), "{fault}");
    let fault = post(&to("10.0.0.1", options), "x").await.expect_err("private");
    assert_eq!(fault.stage, Stage::Refused(ConnectorErrorKind::BlockedAddress), "{fault}");
    let fault = post(&to("1.1.1.1", HttpOptions { loopback_only: true, ..options }), "x").await.expect_err("not loopback");
    assert_eq!(fault.stage, Stage::Refused(ConnectorErrorKind::Misconfigured), "{fault}");
}
