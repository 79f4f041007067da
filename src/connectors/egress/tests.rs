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
