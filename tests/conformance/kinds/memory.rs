//! Why: the reference: destinations in memory that keep every promise of their family, or that are told to lie so that a case can show that it notices. Never part of the product.

use std::sync::Arc;

use async_trait::async_trait;
use datasink::{
    api::pb::DeliveryGuarantee,
    connectors::{
        connector::{Kind as ServerKind, Mark},
        error::ConnectorErrorKind,
    },
};

use super::local::LocalTarget;
use crate::{
    kind::{Fence, Kind, Promises, Seen, SinkSpec, Target},
    sim::{Family, Fault, Lies, REFUSED_AT_COMMIT, SimKind, SimTarget},
    support::Caller,
};

/// More operations than a session tries before the fault is over.
const FAULTS: usize = 1_000;

/// A family of destinations in memory.
pub struct Memory {
    name: &'static str,
    family: Family,
    lies: Lies,
}

impl Memory {
    pub fn honest(name: &'static str, family: Family) -> Self {
        Self { name, family, lies: Lies::default() }
    }

    /// One whose target is worse than it says.
    pub fn lying(family: Family, lies: Lies) -> Self {
        Self { name: "lying", family, lies }
    }
}

const DECLINES: &[(&str, &str)] = &[
    ("template_field_missing", "records have no place in memory"),
    ("partitions_by_value", "records have no place in memory"),
    ("partitions_counted_by_manifest", "records have no place in memory"),
    ("forms_read_by_strangers", "records have no form in memory"),
    ("upload_of_a_kill_removed", "nothing goes up in parts"),
    ("smaller_object_after_a_kill", "what was staged stays, and the stream goes on after it"),
    ("cut_in_the_middle_of_a_unit", "there is no line to cut"),
    ("wrong_credential_never_retried", "it asks for no credential"),
    ("rotated_credential_taken_up", "it asks for no credential"),
    ("destination_missing", "it is always there"),
];

#[async_trait]
impl Kind for Memory {
    fn name(&self) -> &'static str {
        self.name
    }

    fn promises(&self) -> Promises {
        Promises {
            guarantee: DeliveryGuarantee::ExactlyOnce,
            mark_kept: true,
            fence: if self.family == Family::Objects { Fence::Names } else { Fence::Destination },
            copies_after_crash: false,
            declines: DECLINES,
        }
    }

    async fn target(&self) -> Arc<dyn Target> {
        let target = SimTarget::new(self.family);
        target.lie(self.lies);
        Arc::new(MemoryTarget(target))
    }
}

struct MemoryTarget(Arc<SimTarget>);

#[async_trait]
impl Target for MemoryTarget {
    fn rows(&self) -> Vec<Arc<dyn ServerKind>> {
        vec![Arc::new(SimKind(self.0.clone()))]
    }

    fn sink(&self) -> SinkSpec {
        SinkSpec { destination: "https://in.memory".to_owned(), ..SinkSpec::default() }
    }

    async fn read(&self, _: &Caller) -> Vec<Seen> {
        let all = self.0.everything();
        let each = |(id, records): (datasink::connectors::connector::StreamId, Vec<crate::sim::Visible>)| {
            records.into_iter().map(move |one| Seen { place: id.name.to_string(), record: serde_json::from_slice(&one.text).unwrap() })
        };
        all.into_iter().flat_map(each).collect()
    }

    fn poison(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{REFUSED_AT_COMMIT}"}}"#)
    }

    async fn letters(&self) -> Arc<dyn Target> {
        Arc::new(LocalTarget::letters())
    }

    async fn lose_reply(&self) {
        self.0.at_next_commit(Fault::ReplyLost);
    }

    fn replies_lost(&self) -> u64 {
        self.0.replies_lost()
    }

    async fn down(&self) {
        for _ in 0..FAULTS {
            self.0.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
            self.0.at_next_open(Fault::Before(ConnectorErrorKind::Unreachable));
        }
    }

    async fn up(&self) {
        self.0.calm();
    }

    async fn go_back(&self, stream: &str, kept: u64) {
        let (id, _) = self.0.everything().into_iter().find(|(id, _)| id.name.as_str() == stream).expect("the stream is there");
        self.0.go_back(&id, Some(Mark { next: kept, ..Mark::default() }));
    }
}
