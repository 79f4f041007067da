//! Why: the kinds under test, one file each, and which of them this run is about. Never leaves one out because its server is not there: that is a failure.

mod kafka;
mod local;
pub mod memory;
mod objects;
mod webhook;

use std::sync::Arc;

use crate::{kind::Kind, sim::Family};

/// Names the kinds of a run, with commas between; `all` for every one.
pub const CHOICE: &str = "CONFORMANCE_KINDS";

/// The kinds that this run is about.
pub fn chosen() -> Vec<Arc<dyn Kind>> {
    let choice = std::env::var(CHOICE).unwrap_or_else(|_| "memory,local,webhook".to_owned());
    let words: Vec<&str> = choice.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let (mut chosen, mut known) = (Vec::new(), Vec::new());
    for kind in all() {
        // One word may stand for several: memory for both families, kafka for both guarantees, s3 with and without partitions.
        let wanted = words.iter().any(|word| *word == "all" || kind.name() == *word || kind.name().split('-').next() == Some(word));
        known.push(kind.name());
        if wanted {
            chosen.push(kind);
        }
    }
    for word in words {
        let there = word == "all" || known.iter().any(|name| *name == word || name.split('-').next() == Some(word));
        assert!(there, "{CHOICE} names {word:?}; there are all, {}", known.join(", "));
    }
    chosen
}

fn all() -> Vec<Arc<dyn Kind>> {
    vec![
        Arc::new(memory::Memory::honest("memory-transaction", Family::Transaction)),
        Arc::new(memory::Memory::honest("memory-objects", Family::Objects)),
        Arc::new(local::Local),
        Arc::new(webhook::Webhook),
        Arc::new(kafka::Kafka { exactly_once: false }),
        Arc::new(kafka::Kafka { exactly_once: true }),
        Arc::new(objects::S3),
        Arc::new(objects::S3_PARTITIONED),
        Arc::new(objects::GCS),
        Arc::new(objects::GCS_PARTITIONED),
        Arc::new(objects::AZURE),
        Arc::new(objects::AZURE_PARTITIONED),
    ]
}
