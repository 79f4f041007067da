//! Why: what may be said about a Kafka sink, and what a checked one is. Never connects, and never hands an option on to the client library under its own name.

use std::fmt;

use url::Host;

use crate::connectors::{
    destination::Destination,
    egress,
    messages::{Cut, JSON_FORMAT, MAX_MESSAGE_SIZE},
    options::{COMMON, ConfigFault, ConfigFaultKind, OptionSpec, OptionType, Options},
};

/// The port of a broker that is named without one.
const PORT_DEFAULT: u16 = 9092;
/// The most brokers that a destination may name; the others are found through these.
const BROKERS_MAX: usize = 32;
/// The longest topic name that brokers take, in characters.
const TOPIC_CHARS_MAX: usize = 249;
/// The most records of one message.
const MESSAGE_RECORDS_MAX: i64 = 10_000;

/// Every option of a Kafka sink.
pub(super) static OPTIONS: [OptionSpec; 11] = [
    COMMON[0],
    COMMON[1],
    COMMON[2],
    COMMON[3],
    COMMON[4],
    OptionSpec::new("kafka_topic_name", OptionType::Text, "Topic to publish to; it must exist.").place().required(),
    OptionSpec::new(
        "kafka_delivery",
        OptionType::Enum(&["idempotent", "exactly_once"]),
        "idempotent: no duplicates within a session; exactly_once: records and mark in one Kafka transaction, for readers with isolation.level=read_committed.",
    )
    .or("idempotent"),
    OptionSpec::new("kafka_compression", OptionType::Enum(&["none", "gzip", "snappy", "lz4", "zstd"]), "How batches are compressed on their way and at rest.")
        .manner()
        .or("none"),
    OptionSpec::new("max_batch_size", OptionType::Int { min: 1, max: MESSAGE_RECORDS_MAX }, "Most records of one message if nested; without effect if flat.")
        .or("1")
        .per_stream(),
    MAX_MESSAGE_SIZE,
    JSON_FORMAT,
];

/// What is promised, as the option says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// An idempotent producer; our own store keeps the mark.
    Idempotent,
    /// Transactions; the mark is in them.
    ExactlyOnce,
}

/// A broker as the destination or the cluster names it. Shown as `host:port`, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broker {
    /// A name, or an address in its usual spelling, IPv6 in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A checked Kafka destination.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The brokers to begin with.
    pub(super) brokers: Vec<Broker>,
    pub(super) topic: String,
    /// The destination and the topic, for messages.
    pub(super) shown: String,
    pub(super) mode: Mode,
    pub(super) compression: &'static str,
    pub(super) cut: Cut,
}

impl Target {
    /// Checks destination and options; every fault at once.
    pub(super) fn new(destination: &Destination, options: &Options) -> Result<Self, Vec<ConfigFault>> {
        let topic = options.text("kafka_topic_name").unwrap_or_default();
        let (brokers, mut faults) = match brokers(destination) {
            Ok(brokers) => (brokers, Vec::new()),
            Err(faults) => (Vec::new(), faults),
        };
        faults.extend(topic_fault(topic));
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            brokers,
            topic: topic.to_owned(),
            shown: format!("{}/{topic}", destination.redacted()),
            mode: if options.text("kafka_delivery") == Some("exactly_once") { Mode::ExactlyOnce } else { Mode::Idempotent },
            compression: match options.text("kafka_compression") {
                Some("gzip") => "gzip",
                Some("snappy") => "snappy",
                Some("lz4") => "lz4",
                Some("zstd") => "zstd",
                _ => "none",
            },
            cut: Cut::default().overridden(options),
        })
    }

    /// Where records go, for receipts.
    pub(super) fn uri(&self, partition: i32) -> String {
        format!("kafka://{}/{partition}", self.topic)
    }
}

fn topic_fault(topic: &str) -> Option<ConfigFault> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > TOPIC_CHARS_MAX || !topic.chars().all(legal) || topic == "." || topic == ".." {
        let rule = format!("a topic's name has 1 to {TOPIC_CHARS_MAX} letters, digits, \".\", \"_\" and \"-\", and is not \".\" or \"..\"");
        return Some(ConfigFault::option(ConfigFaultKind::InvalidOption, "kafka_topic_name", rule));
    }
    None
}

/// The brokers that a destination names. Every fault at once.
fn brokers(destination: &Destination) -> Result<Vec<Broker>, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    let rest = destination.rest();
    if destination.secret().is_some() {
        faults.push(ConfigFault::destination(
            "the destination must not hold a user or password; put them into a credential of type kafka and name it in the option \"credential\"",
        ));
        return Err(faults);
    }
    if rest.contains(['/', '?', '#', '\\']) {
        faults.push(ConfigFault::destination(
            "the destination must be written kafka://host[:port][,host[:port]], without a path; the topic belongs in the option \"kafka_topic_name\"",
        ));
        return Err(faults);
    }
    let mut brokers = Vec::new();
    for text in rest.split(',') {
        match broker(text) {
            Ok(broker) if brokers.contains(&broker) => {}
            Ok(broker) => brokers.push(broker),
            Err(why) => faults.push(ConfigFault::destination(why)),
        }
    }
    if brokers.len() > BROKERS_MAX {
        faults.push(ConfigFault::destination(format!(
            "the destination names more than {BROKERS_MAX} brokers; a few are enough, the others are found through them"
        )));
    }
    if faults.is_empty() { Ok(brokers) } else { Err(faults) }
}

fn broker(text: &str) -> Result<Broker, String> {
    let (host, port) = match text.rfind(':').filter(|at| !text[*at..].contains(']')) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    if host.is_empty() {
        return Err("a broker has no host; write kafka://host[:port][,host[:port]]".to_owned());
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("{text:?} is not host[:port]; an IPv6 address goes in brackets, as in kafka://[::1]:9092"));
    }
    let port = match port {
        "" if host.len() == text.len() => PORT_DEFAULT,
        digits => digits
            .parse()
            .ok()
            .filter(|port| *port > 0 && digits.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| format!("the port of {text:?} is not a number from 1 to 65535"))?,
    };
    let parsed = Host::parse(host).map_err(|_| format!("{host:?} is not a host name or an address"))?;
    let borrowed = match &parsed {
        Host::Domain(name) => Host::Domain(name.as_str()),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    };
    egress::check_host_ever(&borrowed).map_err(|blocked| blocked.to_string())?;
    Ok(Broker { host: parsed.to_string(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<Vec<String>, Vec<String>> {
        let destination = Destination::parse(text).map_err(|fault| vec![fault.message])?;
        match brokers(&destination) {
            Ok(brokers) => Ok(brokers.iter().map(ToString::to_string).collect()),
            Err(faults) => Err(faults.into_iter().map(|fault| fault.message).collect()),
        }
    }

    #[test]
    fn brokers_are_hosts_with_or_without_ports() {
        assert_eq!(named("kafka://b1").unwrap(), ["b1:9092"]);
        assert_eq!(named("KAFKA://B1:19092,b2,b1:19092").unwrap(), ["b1:19092", "b2:9092"]);
        assert_eq!(named("kafka://[::1],[fd00::1]:9093,10.0.0.1").unwrap(), ["[::1]:9092", "[fd00::1]:9093", "10.0.0.1:9092"]);
        // Another spelling of an address is that address, so that what is checked is what is connected to.
        assert_eq!(named("kafka://0x7f.1:1").unwrap(), ["127.0.0.1:1"]);
    }

    #[test]
    fn every_bad_broker_is_told() {
        for (bad, faults) in [
            ("kafka://", 1),
            ("kafka", 1),
            ("kafka://a,,b", 1),
            ("kafka://a:,b:0,c:65536,d:+1", 4),
            ("kafka://::1", 1),
            ("kafka://a/topic", 1),
            ("kafka://a?b=c", 1),
            ("kafka://user:word@a", 1),
            ("kafka://169.254.169.254,a b", 1),
            ("kafka://169.254.169.254,0.0.0.0:9092", 2),
        ] {
            assert_eq!(named(bad).unwrap_err().len(), faults, "{bad}: {:?}", named(bad));
        }
    }

    #[test]
    fn a_topic_has_a_name_that_brokers_take() {
        assert!(topic_fault("a.b_c-D9").is_none());
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"a".repeat(250)] {
            assert!(topic_fault(bad).is_some(), "{bad:?}");
        }
    }
}
