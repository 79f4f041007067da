//! Why: every client of the library is made here, with the same settings, the same ears for what it reports and the same check of addresses. Never lets it meet a broker of a cluster whose advertised addresses were not looked at.
//!
//! The address filter. The library resolves and connects by itself, and its safe interface has no hook for either. So: (1) what the destination names is resolved by the filter, and
//! without TLS the library is given the checked addresses instead of names; (2) a client that only asks for metadata goes first, every broker that the cluster advertises is resolved and
//! checked, and only then a client is made that writes; (3) later metadata is watched through the library's statistics, and a writer stops at a broker that would be refused.
//! What remains: a name that means one address to the filter and another to the library a moment later (rebinding), and the moments until a broker that appears later is noticed. With TLS
//! such a peer must hold a certificate for the name before it is told anything; without, it sees a Kafka handshake, never a password in the clear (those go to loopback addresses only).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use super::{
    failure,
    options::{Broker, Target},
    producer::Flight,
    security::Security,
};
use crate::connectors::{
    connector::{ConnectContext, SinkKind},
    egress::{Egress, EgressError},
    error::{ConnectorError, ConnectorErrorKind as Kind},
};

/// How long the first question for metadata may take before the ears are asked whether it makes sense to wait; each further one may take twice as long.
const ASK_FIRST: Duration = Duration::from_millis(250);
/// How long the first client waits before it connects again where it was refused.
const SCOUT_RECONNECT_MS: &str = "1000";
/// How long reports are listened to at a time.
const EVENTS_WAIT: Duration = Duration::from_millis(10);
/// The most reports that are listened to at a time.
const REPORTS_MAX: usize = 32;
/// How long a client is listened to that will ask for a token.
const TOKEN_WAIT: Duration = Duration::from_millis(100);
/// How long a topic that is not there is asked for again after the first answer, and how often.
const NEWS_WAIT: Duration = Duration::from_secs(1);
/// See [`NEWS_WAIT`].
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// The shortest time-out of a socket that the library takes beside its other settings.
const SOCKET_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// How often the library tells which brokers it knows.
const STATISTICS_INTERVAL_MS: &str = "5000";

/// What clients report, in their own threads.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) security: Arc<Security>,
    troubles: Mutex<Troubles>,
    /// Brokers that passed the filter, `host:port`.
    checked: Mutex<BTreeSet<String>>,
    /// Brokers that appeared since.
    appeared: Mutex<BTreeSet<String>>,
    /// What of the unit under way has landed; see the producer.
    pub(super) flight: Mutex<Flight>,
    pub(super) landed: Condvar,
}

/// What goes wrong at present.
#[derive(Debug, Clone, Default)]
struct Troubles {
    unauthenticated: Option<Code>,
    tls: Option<&'static str>,
    unresolved: bool,
    down: bool,
    token: Option<ConnectorError>,
}

/// Locks a mutex whose holder may have panicked: each guards values that are whole after every step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ears {
    pub(super) fn new(security: Arc<Security>) -> Arc<Self> {
        Arc::new(Self {
            security,
            troubles: Mutex::default(),
            checked: Mutex::default(),
            appeared: Mutex::default(),
            flight: Mutex::default(),
            landed: Condvar::new(),
        })
    }

    /// What was heard is history: something works.
    pub(super) fn forget_troubles(&self) {
        *locked(&self.troubles) = Troubles::default();
    }

    /// The error that explains why nothing works, if one was heard; `surely` only such as time does not mend.
    pub(super) fn verdict(&self, shown: &str, doing: &str, surely: bool) -> Option<ConnectorError> {
        let troubles = locked(&self.troubles).clone();
        if let Some(error) = troubles.token {
            return Some(error);
        }
        if let Some(code) = troubles.unauthenticated {
            return Some(failure::error(shown, doing, code));
        }
        if surely && !troubles.down {
            return None;
        }
        if let Some(hint) = troubles.tls {
            let mut error = failure::error(shown, doing, Code::SSL);
            if !hint.is_empty() {
                error.message = format!("{}: {hint}", error.message);
            }
            return Some(error);
        }
        let code = match troubles {
            Troubles { unresolved: true, .. } => Code::Resolve,
            Troubles { down: true, .. } => Code::AllBrokersDown,
            _ => return None,
        };
        Some(failure::error(shown, doing, code))
    }

    /// Brokers that have appeared since the last look and were not checked yet.
    pub(super) fn appeared(&self) -> Vec<Broker> {
        let appeared = std::mem::take(&mut *locked(&self.appeared));
        appeared.iter().filter_map(|name| broker_of(name)).collect()
    }
}

fn broker_of(name: &str) -> Option<Broker> {
    let (host, port) = name.rsplit_once(':')?;
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    Some(Broker { host, port: port.parse().ok()? })
}

/// What is wrong with TLS, as far as the library's own words tell.
fn tls_hint(reason: &str) -> &'static str {
    let reason = reason.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    match () {
        () if says(&["hostname mismatch", "ip address mismatch"]) => "the broker's certificate is for another host",
        () if says(&["has expired", "not yet valid"]) => "the broker's certificate is not valid now",
        () if says(&["self-signed", "self signed", "unable to get local issuer", "unable to get issuer"]) => {
            "the broker's certificate comes from no trusted authority"
        }
        () if says(&["certificate verify failed"]) => "the broker's certificate is for another host, or comes from no trusted authority",
        () if says(&["certificate required", "bad certificate", "alert certificate", "handshake failure"]) => {
            "the broker does not accept our certificate, or wants one"
        }
        () => "",
    }
}

/// The ears as the library wants them.
#[derive(Debug, Clone)]
pub(super) struct Context(pub(super) Arc<Ears>);

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.0.security.redactor.redact(message);
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(known) = brokers_in(statistics) else { return };
        let checked = locked(&self.0.checked);
        // Before anything was checked there is nothing to compare with.
        if !checked.is_empty() {
            locked(&self.0.appeared).extend(known.into_iter().filter(|broker| !checked.contains(broker)));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = failure::code_of(&error);
        tracing::debug!(?code, reason = self.0.security.redactor.redact(reason), "librdkafka");
        let mut troubles = locked(&self.0.troubles);
        match code {
            Code::SSL => troubles.tls = Some(tls_hint(reason)),
            // A handshake that fails in its first step is reported like this, and a broker refuses our certificate only after the handshake, and closes the connection.
            Code::BrokerTransportFailure if !tls_hint(reason).is_empty() => troubles.tls = Some(tls_hint(reason)),
            Code::Resolve => troubles.unresolved = true,
            Code::AllBrokersDown => troubles.down = true,
            _ if failure::meaning(code).0 == Kind::Unauthenticated => troubles.unauthenticated = Some(code),
            _ => {}
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let tokens = self.0.security.tokens.as_ref().ok_or("there is no token")?;
        tokens.next().map_err(|error| {
            locked(&self.0.troubles).token = Some(error);
            "there is no token".into()
        })
    }
}

impl ConsumerContext for Context {}

/// The advertised brokers in the library's statistics.
fn brokers_in(statistics: &[u8]) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Statistics {
        brokers: std::collections::BTreeMap<String, Known>,
    }
    #[derive(serde::Deserialize)]
    struct Known {
        nodeid: i64,
        nodename: String,
    }
    let statistics: Statistics = serde_json::from_slice(statistics).ok()?;
    // Below zero are those that the destination names, and the library's own.
    Some(statistics.brokers.into_values().filter(|known| known.nodeid >= 0 && known.nodename.len() > 1).map(|known| known.nodename).collect())
}

/// Where the brokers of the destination are.
pub(super) type Resolved = Vec<(Broker, Vec<SocketAddr>)>;

/// The brokers that the destination names, resolved by the filter. One that does not resolve is left out if another does.
pub(super) async fn resolve(cx: &ConnectContext, target: &Target, security: &Security) -> Result<Resolved, ConnectorError> {
    let (mut found, mut missing) = (Vec::new(), None);
    for broker in &target.brokers {
        match cx.egress.resolve(&broker.host, broker.port, SinkKind::Kafka).await {
            Ok(addresses) => {
                stays_here(broker, &addresses, security)?;
                found.push((broker.clone(), addresses));
            }
            Err(fault @ EgressError::Resolve { .. }) => missing = Some(fault),
            Err(fault) => return Err(fault.into()),
        }
    }
    match missing {
        Some(fault) if found.is_empty() => Err(fault.into()),
        _ => Ok(found),
    }
}

/// Checks the brokers that a cluster advertises. A name that does not resolve cannot be connected to either; it is an error only if none does.
pub(super) async fn check_advertised(egress: &Egress, ears: &Ears, brokers: &[Broker]) -> Result<(), ConnectorError> {
    let mut missing = None;
    for broker in brokers {
        match egress.resolve(&broker.host, broker.port, SinkKind::Kafka).await {
            Ok(addresses) => {
                stays_here(broker, &addresses, &ears.security)?;
                locked(&ears.checked).insert(broker.to_string());
            }
            Err(fault @ EgressError::Resolve { .. }) => missing = Some(fault),
            Err(fault) => {
                let message =
                    format!("the cluster advertises the broker {broker}, and {fault}; alter the broker's advertised.listeners, or the egress settings");
                return Err(ConnectorError::new(fault.kind(), message).with("broker", broker.to_string()));
            }
        }
    }
    match missing {
        Some(fault) if locked(&ears.checked).is_empty() => Err(fault.into()),
        _ => Ok(()),
    }
}

fn stays_here(broker: &Broker, addresses: &[SocketAddr], security: &Security) -> Result<(), ConnectorError> {
    let here = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    if !security.loopback_only || addresses.iter().all(here) {
        return Ok(());
    }
    let mechanism = security.mechanism.map_or("", |mechanism| mechanism.as_str());
    let message = format!(
        "{mechanism} without TLS would show its secret to the network on the way to {broker}; set the credential's security.protocol to SASL_SSL, or use SCRAM-SHA-512"
    );
    Err(ConnectorError::new(Kind::Misconfigured, message).with("broker", broker.to_string()))
}

/// Settings that every client shares.
pub(super) fn settings(cx: &ConnectContext, security: &Security, resolved: &Resolved) -> ClientConfig {
    // With TLS the certificate proves the name; without, nothing does but the address that was checked.
    let servers: Vec<String> = match security.tls {
        true => resolved.iter().map(|(broker, _)| broker.to_string()).collect(),
        false => resolved.iter().flat_map(|(_, addresses)| addresses).map(ToString::to_string).collect(),
    };
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers.join(","))
        .set("client.id", "datasink")
        .set("socket.connection.setup.timeout.ms", millis(cx.connection_timeout.max(Duration::from_secs(1))))
        .set("socket.timeout.ms", millis(cx.reply_timeout.max(SOCKET_TIMEOUT_MIN)))
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        // The brokers answer "concurrent transactions" right after a commit, and the default pause is ten times the transaction.
        .set("retry.backoff.ms", "2")
        // Brokers must not be able to ask for the library's telemetry.
        .set("enable.metrics.push", "false")
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS)
        .set_log_level(RDKafkaLogLevel::Info);
    security.apply(&mut config);
    config
}

/// A duration as the library's options want it.
pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// The error for a client that cannot be made. The library's words name the setting at fault; a value in them is not repeated.
pub(super) fn not_made(shown: &str, ears: &Ears, fault: &KafkaError) -> ConnectorError {
    let why = match fault {
        KafkaError::ClientConfig(_, _, key, _) => format!("the value of {key} is not taken"),
        KafkaError::ClientCreation(why) => ears.security.redactor.redact(why),
        _ => "it gives no reason".to_owned(),
    };
    let kind = if why.contains("ssl.") { Kind::Tls } else { Kind::Misconfigured };
    ConnectorError::new(kind, format!("no client for {shown} can be made: {why}; check the sink's credential"))
}

/// The error for a failed call, explained by what was heard meanwhile.
pub(super) fn explain(target: &Target, ears: &Ears, doing: &str, fault: &KafkaError) -> ConnectorError {
    let code = failure::code_of(fault);
    match failure::meaning(code).0 {
        Kind::TimedOut | Kind::Unknown => ears.verdict(&target.shown, doing, false).unwrap_or_else(|| failure::error(&target.shown, doing, code)),
        _ => failure::error(&target.shown, doing, code),
    }
}

/// What a cluster says of itself and of the topic.
#[derive(Debug)]
pub(super) struct Found {
    /// The advertised brokers.
    pub(super) brokers: Vec<Broker>,
    /// How many partitions the topic has, or why it cannot be told.
    pub(super) topic: Result<usize, Code>,
}

/// Serves what a new client reports. With tokens the first thing that it does is to ask for one, and until it has one it connects to nobody.
pub(super) fn listen(client: &BaseConsumer<Context>, ears: &Ears) {
    let wait = if ears.security.tokens.is_some() { TOKEN_WAIT } else { Duration::ZERO };
    // Nothing was subscribed to, so no message comes.
    let _ = client.poll(wait);
}

/// Asks for metadata, which authenticates on the way. Creates no topic and joins no group. Blocks for at most `limit`.
pub(super) fn scout(target: &Target, config: &ClientConfig, ears: &Arc<Ears>, limit: Duration) -> Result<Found, ConnectorError> {
    const DOING: &str = "ask for the topic";
    let shown = &target.shown;
    let until = Instant::now() + limit;
    let client: BaseConsumer<Context> = config
        .clone()
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "10")
        // What a broker refuses once it refuses again: accounts are locked for less than a dozen attempts in a second.
        .set("reconnect.backoff.ms", SCOUT_RECONNECT_MS)
        .set("metadata.recovery.strategy", "none")
        .create_with_context(Context(ears.clone()))
        .map_err(|fault| not_made(shown, ears, &fault))?;
    let (mut patience, mut news_until) = (ASK_FIRST, None);
    listen(&client, ears);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client.fetch_metadata(Some(&target.topic), patience.min(left)) {
            Ok(metadata) => {
                ears.forget_troubles();
                let topic = match metadata.topics().first() {
                    Some(topic) => topic.error().map_or(Ok(topic.partitions().len()), |code| Err(code.into())),
                    None => Err(Code::UnknownTopicOrPartition),
                };
                // Who has just created a topic is told so before every broker knows it.
                if topic == Err(Code::UnknownTopicOrPartition) && Instant::now() < *news_until.get_or_insert_with(|| Instant::now() + NEWS_WAIT) {
                    std::thread::sleep(NEWS_PAUSE);
                    continue;
                }
                let brokers = metadata.brokers().iter().filter_map(|broker| broker_of(&format!("{}:{}", broker.host(), broker.port()))).collect();
                return Ok(Found { brokers, topic });
            }
            Err(fault) => {
                // One report at a time comes out, and the one that explains the others need not be the first.
                let _ = (0..REPORTS_MAX).find(|_| client.poll(EVENTS_WAIT).is_none());
                if let Some(error) = ears.verdict(shown, DOING, true) {
                    return Err(error);
                }
                if Instant::now() >= until {
                    return Err(ears.verdict(shown, DOING, false).unwrap_or_else(|| failure::error(shown, DOING, failure::code_of(&fault))));
                }
                patience *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_brokers_are_read_from_statistics() {
        let statistics = br#"{"name":"x","brokers":{
            "b1:9092/1":{"nodeid":1,"nodename":"b1:9092"},
            "h:9092/bootstrap":{"nodeid":-1,"nodename":"h:9092"},
            "GroupCoordinator":{"nodeid":-1,"nodename":""},
            ":0/internal":{"nodeid":-1,"nodename":":0"}}}"#;
        assert_eq!(brokers_in(statistics), Some(vec!["b1:9092".to_owned()]));
        assert_eq!(broker_of("::1:9092"), Some(Broker { host: "[::1]".to_owned(), port: 9092 }));
        assert_eq!(broker_of("b1:99999"), None);
    }

    #[test]
    fn a_broker_that_was_not_checked_is_noticed() {
        let ears = Ears::new(Arc::new(crate::connectors::kafka::tests::no_security()));
        let context = Context(ears.clone());
        context.stats_raw(br#"{"brokers":{"a":{"nodeid":1,"nodename":"a:1"}}}"#);
        assert!(ears.appeared().is_empty(), "nothing was checked yet");
        locked(&ears.checked).insert("a:1".to_owned());
        context.stats_raw(br#"{"brokers":{"a":{"nodeid":1,"nodename":"a:1"},"b":{"nodeid":2,"nodename":"b:2"}}}"#);
        assert_eq!(ears.appeared(), [Broker { host: "b".to_owned(), port: 2 }]);
        assert!(ears.appeared().is_empty());
    }

    #[test]
    fn a_certificate_that_brokers_refuse_is_told_from_a_broken_connection() {
        let ears = Ears::new(Arc::new(crate::connectors::kafka::tests::no_security()));
        let context = Context(ears.clone());
        context.error(KafkaError::Global(Code::BrokerTransportFailure), "ssl://b:9092/bootstrap: Disconnected while requesting ApiVersion");
        context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(ears.verdict("kafka://b/t", "try", true).map(|error| error.kind), Some(Kind::Unreachable));
        let alert = "ssl://b:9092/bootstrap: Receive failed: error:0A000416:SSL routines::ssl/tls alert certificate unknown: SSL alert number 46";
        context.error(KafkaError::Global(Code::BrokerTransportFailure), alert);
        assert_eq!(ears.verdict("kafka://b/t", "try", true).map(|error| error.kind), Some(Kind::Tls));
    }

    /// The words of librdkafka where the handshake failed in its first step; the report with the code of TLS may come much later, or never.
    #[test]
    fn a_handshake_that_failed_is_told_whichever_way_it_is_reported() {
        let reported = |reason: &str| {
            let ears = Ears::new(Arc::new(crate::connectors::kafka::tests::no_security()));
            let context = Context(ears.clone());
            context.error(KafkaError::Global(Code::BrokerTransportFailure), reason);
            context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
            ears.verdict("kafka://b/t", "try", true).map(|error| (error.kind, error.message.contains("another host")))
        };
        let state = "(after 3ms in state SSL_HANDSHAKE)";
        let verify = format!("sasl_ssl://b:9092/bootstrap: error:0A000086:SSL routines::certificate verify failed {state}");
        assert_eq!(reported(&verify), Some((Kind::Tls, true)));
        for broken in [
            "Disconnected: connection closed by peer",
            "error:0A000126:SSL routines::unexpected eof while reading",
            "Connect to b failed: unable to get status from socket 7",
        ] {
            assert_eq!(reported(&format!("sasl_ssl://b:9092/bootstrap: {broken} {state}")), Some((Kind::Unreachable, false)), "{broken}");
        }
    }

    #[test]
    fn the_worst_that_was_heard_is_the_verdict() {
        let ears = Ears::new(Arc::new(crate::connectors::kafka::tests::no_security()));
        let context = Context(ears.clone());
        let kind = |surely| ears.verdict("kafka://b/t", "try", surely).map(|error| error.kind);
        assert_eq!(kind(false), None);
        context.error(KafkaError::Global(Code::SSL), "SSL handshake failed: certificate verify failed: hostname mismatch");
        assert_eq!(kind(true), None, "another broker may be well");
        context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(kind(true), Some(Kind::Tls));
        assert!(ears.verdict("kafka://b/t", "try", true).is_some_and(|error| error.message.contains("another host")));
        context.error(KafkaError::Global(Code::Authentication), "canary");
        assert_eq!(kind(true), Some(Kind::Unauthenticated));
        ears.forget_troubles();
        assert_eq!(kind(false), None);
    }
}
