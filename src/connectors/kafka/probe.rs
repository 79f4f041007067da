//! Why: says step by step what stands between this service and a topic, and what of it was proved. Never leaves a record that readers see unless a write was asked for.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{BaseRecord, Producer as _},
    types::RDKafkaErrorCode as Code,
};

use super::{
    client::{self, Ears, explain, locked},
    failure,
    open::{self, Transactional, blocking, step_limit},
    options::{Mode, Target},
    producer::{self, Flight},
    security::Security,
};
use crate::connectors::{
    connector::{ConnectContext, Probe},
    error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass},
    messages::JsonFormat,
    steps::Steps,
};

const STEPS: [&str; 8] = ["configuration", "credential", "resolve", "connect", "tls", "authenticate", "authorize", "write"];
/// How long the library waits before it takes a topic into a transaction, and more: it does so before it reads an answer of the next call.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Tries the steps one by one; those after a failed one are skipped.
pub(super) async fn probe(target: &Arc<Target>, cx: &ConnectContext, write: bool) -> Probe {
    let mut steps = Steps::new();
    let _ = walk(&mut steps, target, cx, write).await;
    Probe { steps: steps.end(&STEPS), checked: cx.ambient.now() }
}

type Details = Vec<(String, String)>;

fn detail(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// `None` once a step has failed.
async fn walk(steps: &mut Steps, target: &Arc<Target>, cx: &ConnectContext, write: bool) -> Option<()> {
    steps.tried("configuration", Ok(()), |()| vec![detail("topic", &target.topic), detail("brokers", target.brokers.len())])?;
    let security = with_token(cx).await;
    let security = steps.tried("credential", security, |security| {
        security.mechanism.iter().map(|mechanism| detail("mechanism", mechanism.as_str())).chain([detail("tls", security.tls)]).collect()
    })?;
    let resolved = client::resolve(cx, target, &security).await;
    let resolved = steps.tried("resolve", resolved, |found| vec![detail("addresses", found.iter().map(|(_, addresses)| addresses.len()).sum::<usize>())])?;
    let connected = connect(cx, &resolved).await;
    steps.tried("connect", connected, |address| vec![detail("address", address)])?;
    let reached = open::reach(target, cx, security.clone()).await;
    let reached = met(steps, &security, reached)?;
    let mode = target.mode;
    let work = {
        let (target, ears, config) = (target.clone(), reached.ears.clone(), reached.config.clone());
        let (id, limit) = (probe_id(cx), step_limit(cx, mode));
        move || authorize(&target, &ears, &config, &id, limit)
    };
    let authorized = match &reached.found.topic {
        Ok(partitions) => blocking(step_limit(cx, mode) * 6, work).await.map(|mut details: Details| {
            details.insert(0, detail("partitions", partitions));
            details.extend(reached.topic_bytes_max.map(|most| detail("max_message_bytes", most)));
            details
        }),
        Err(code) => Err(failure::error(&target.shown, "use the topic", *code)),
    };
    steps.tried("authorize", authorized, Clone::clone)?;
    if write {
        let (target, ears, config) = (target.clone(), reached.ears.clone(), reached.config.clone());
        let (id, limit) = (probe_id(cx), step_limit(cx, mode));
        let written = blocking(step_limit(cx, mode) * 4, move || write_one(&target, &ears, &config, &id, limit)).await;
        steps.tried("write", written, Clone::clone)?;
    }
    Some(())
}

/// A transactional id for one probe. Two at a time must not fence each other, and brokers remember each id for a week: so there are a few hundred of them, taken at random.
fn probe_id(cx: &ConnectContext) -> String {
    let mut slot = [0];
    cx.ambient.ids.fill(&mut slot);
    format!("datasink/probe/{}/{}", cx.sink, slot[0])
}

/// The credential; a token is part of it, wherever it comes from.
async fn with_token(cx: &ConnectContext) -> Result<Arc<Security>, ConnectorError> {
    let security = Arc::new(Security::of(cx)?);
    if let Some(tokens) = &security.tokens {
        tokens.ready().await?;
    }
    Ok(security)
}

/// A connection to the first broker that takes one.
async fn connect(cx: &ConnectContext, resolved: &client::Resolved) -> Result<std::net::SocketAddr, ConnectorError> {
    let mut last = ConnectorError::new(Kind::Unreachable, "the destination names no broker");
    for (broker, addresses) in resolved {
        match cx.egress.connect(&broker.host, addresses, cx.connection_timeout).await {
            Ok(stream) => return Ok(stream.peer_addr().unwrap_or(addresses[0])),
            Err(fault) => last = fault.into(),
        }
    }
    Err(last)
}

/// The first answer of the cluster, told as the steps that it takes.
fn met(steps: &mut Steps, security: &Security, reached: Result<open::Reached, ConnectorError>) -> Option<open::Reached> {
    let failed = reached.as_ref().err().map(|error| error.kind);
    // An answer that never came was not got past the first step that there is.
    let at_tls = security.tls && !matches!(failed, None | Some(Kind::Unauthenticated | Kind::BlockedAddress | Kind::Misconfigured));
    if at_tls {
        steps.tried("tls", reached, |_| Vec::new())?;
        return None;
    }
    if security.tls {
        steps.tried("tls", Ok(()), |()| vec![detail("verified", "certificate and host name")]);
    } else {
        steps.skipped("tls");
    }
    if security.mechanism.is_none() && reached.is_ok() {
        steps.skipped("authenticate");
        return reached.ok();
    }
    steps.tried("authenticate", reached, |reached| vec![detail("advertised_brokers", reached.found.brokers.len())])
}

/// Whether the topic may be written to. The topic is taken into a transaction, which the brokers allow only who may write to it, and the transaction is aborted before its one message is sent.
fn authorize(target: &Target, ears: &Arc<Ears>, config: &ClientConfig, id: &str, limit: Duration) -> Result<Details, ConnectorError> {
    let tried = try_transaction(target, ears, config, id, limit.min(open::TRANSACTION_STEP_MAX));
    let exact = target.mode == Mode::ExactlyOnce;
    match tried {
        Ok(()) => {
            Ok(vec![detail("write_right", "proved: the brokers took the topic into a transaction, which was aborted empty"), detail("transactions", "allowed")])
        }
        Err(Refusal::Write(error)) => Err(error),
        Err(Refusal::Mark(error)) if exact => Err(error),
        Err(Refusal::Mark(_)) => Ok(vec![
            detail("write_right", "proved: the brokers took the topic into a transaction, which was aborted empty"),
            detail("transactions", "without the mark: kafka_delivery=exactly_once would need Read on the topic and on groups with the prefix datasink/"),
        ]),
        Err(Refusal::Transactions(error)) if exact || error.kind == Kind::Unauthenticated => Err(error),
        // Brokers that are not ready yet, or too busy, have not refused anything.
        Err(Refusal::Transactions(error)) if error.class == ErrorClass::Destination => Ok(vec![
            detail("write_right", "not proved: that takes a transaction, and the brokers did not take one in time; ask for a write to prove it"),
            detail("transactions", error.message),
        ]),
        Err(Refusal::Transactions(_)) => Ok(vec![
            detail("write_right", "not proved: that takes a transaction, and those are not allowed here; ask for a write to prove it"),
            detail("transactions", "not allowed: kafka_delivery=exactly_once cannot be used, the idempotent delivery is not affected"),
        ]),
    }
}

/// What the brokers refuse.
enum Refusal {
    Transactions(ConnectorError),
    Write(ConnectorError),
    Mark(ConnectorError),
}

fn try_transaction(target: &Target, ears: &Arc<Ears>, config: &ClientConfig, id: &str, limit: Duration) -> Result<(), Refusal> {
    let of_transactions = |fault: KafkaError| Refusal::Transactions(explain(target, ears, "use transactions", &fault));
    let settings = open::silent_settings(config, target, limit, id);
    let transactional = Transactional::with(target, ears, config, &settings, id, limit).map_err(Refusal::Transactions)?;
    let producer = &transactional.producer;
    // Where no group was ever used, the first question makes its coordinator; a transaction that asks first waits for it without end.
    match transactional.group.mark(target, ears, limit) {
        // Whoever may not read it is told so by the transaction, too, and at once.
        Err(error) if error.kind != Kind::PermissionDenied => return Err(Refusal::Transactions(error)),
        Ok(_) | Err(_) => {}
    }
    *locked(&ears.flight) = Flight::default();
    // A producer that does not know the topic's partitions yet takes none into the transaction, and nothing would be proved.
    let unknown = |fault: KafkaError| Refusal::Transactions(explain(target, ears, "ask for the topic", &fault));
    producer.client().fetch_metadata(Some(&target.topic), limit).map_err(unknown)?;
    producer.begin_transaction().map_err(of_transactions)?;
    producer.send(BaseRecord::<[u8], [u8], usize>::with_opaque_to(&target.topic, 0).payload(&b"{}"[..])).map_err(|(fault, _)| of_transactions(fault))?;
    std::thread::sleep(ON_ITS_WAY);
    let result = set_mark_twice(target, ears, &transactional, limit);
    if let Err(fault) = producer.abort_transaction(limit) {
        tracing::debug!(code = ?failure::code_of(&fault), "the probe's transaction is left to the brokers' time-out");
    }
    result
}

/// Setting the mark asks the same coordinator as taking the topic in, after it: once the first answer is here, the second call knows what became of the topic.
fn set_mark_twice(target: &Target, ears: &Arc<Ears>, transactional: &Transactional, limit: Duration) -> Result<(), Refusal> {
    for _ in 0..2 {
        let offsets = producer::metadata(&target.topic, 0, "").map_err(|fault| Refusal::Mark(explain(target, ears, "set the mark", &fault)))?;
        if let Err(fault) = transactional.producer.send_offsets_to_transaction(&offsets, transactional.group.metadata(), limit) {
            let of_the_topic = matches!(&fault, KafkaError::Transaction(error) if error.string().contains("add partition"));
            return Err(match failure::code_of(&fault) {
                Code::TopicAuthorizationFailed if of_the_topic => Refusal::Write(explain(target, ears, "write to the topic", &fault)),
                Code::TransactionalIdAuthorizationFailed => Refusal::Transactions(explain(target, ears, "use transactions", &fault)),
                _ => Refusal::Mark(explain(target, ears, "set the mark", &fault)),
            });
        }
    }
    Ok(())
}

/// Writes one message with the header `datasink-probe`: for good, or in a transaction that is aborted.
fn write_one(target: &Target, ears: &Arc<Ears>, config: &ClientConfig, id: &str, limit: Duration) -> Result<Details, ConnectorError> {
    let value: &[u8] = if target.cut.format == JsonFormat::Flat { b"{}" } else { b"[]" };
    let exact = target.mode == Mode::ExactlyOnce;
    let settings = open::producer_settings(config, target, target.cut, None, limit, exact.then_some(id));
    let producer = open::producer(target, ears, &settings)?;
    let failed = |fault: KafkaError| explain(target, ears, "write a probe", &fault);
    if exact {
        producer.init_transactions(limit).map_err(failed)?;
        producer.begin_transaction().map_err(failed)?;
    }
    let landed = producer::write_probe(&producer, target, ears, value, limit)?;
    let mut details = vec![detail("partition", landed.0), detail("kafka_offset", landed.1)];
    if exact {
        producer.abort_transaction(limit).map_err(failed)?;
        details.push(detail("left_behind", "nothing that readers with isolation.level=read_committed see: the transaction was aborted"));
    } else {
        details.push(detail("left_behind", "one message with the header datasink-probe; Kafka cannot take it back"));
    }
    Ok(details)
}
