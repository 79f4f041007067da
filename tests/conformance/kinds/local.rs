//! Why: local tables under test; their rows are read by ScanRows of a real server over a socket. Never reads the store.

use std::sync::Arc;

use async_trait::async_trait;
use datasink::api::pb::{ColumnType, DeliveryGuarantee};

use crate::{
    kind::{Fence, Kind, Promises, Seen, SinkSpec, Target},
    support::Caller,
};

/// Tables of the service itself.
pub struct Local;

const NO_LINE: &str = "the table is in the server's own process: there is no line that could fail";
const DECLINES: &[(&str, &str)] = &[
    ("template_field_missing", "rows are not placed by a field"),
    ("partitions_by_value", "rows are not placed by a field"),
    ("partitions_counted_by_manifest", "rows are not placed by a field"),
    ("forms_read_by_strangers", "rows have no form"),
    ("upload_of_a_kill_removed", "nothing goes up in parts"),
    ("smaller_object_after_a_kill", "what was staged stays, and the stream goes on after it"),
    ("unknown_outcome_reread", NO_LINE),
    ("unreachable_backs_off_and_heals", NO_LINE),
    ("cut_in_the_middle_of_a_unit", NO_LINE),
    ("went_back_detected", "rows, mark and our note of it lie in one store and go back together"),
    ("wrong_credential_never_retried", "it takes no credential"),
    ("rotated_credential_taken_up", "it takes no credential"),
];

#[async_trait]
impl Kind for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn promises(&self) -> Promises {
        Promises { guarantee: DeliveryGuarantee::ExactlyOnce, mark_kept: true, fence: Fence::Destination, copies_after_crash: false, declines: DECLINES }
    }

    async fn target(&self) -> Arc<dyn Target> {
        Arc::new(LocalTarget { table: "default.numbers", letters: false })
    }
}

/// One table.
pub struct LocalTarget {
    table: &'static str,
    letters: bool,
}

impl LocalTarget {
    /// A table for dead letters, also for kinds that have no other place for them.
    pub fn letters() -> Self {
        Self { table: "default.letter_box", letters: true }
    }
}

#[async_trait]
impl Target for LocalTarget {
    async fn prepare(&self, admin: &Caller) {
        if self.letters {
            admin.dead_letter_table(self.table).await;
        } else {
            let text = |name| (name, ColumnType::String, true);
            admin.create_table(self.table, &[("n", ColumnType::Int64, false), text("pad"), text("region")]).await;
        }
    }

    fn sink(&self) -> SinkSpec {
        SinkSpec { destination: format!("table://{}", self.table), ..SinkSpec::default() }
    }

    async fn read(&self, admin: &Caller) -> Vec<Seen> {
        // Two streams share the table: rows of one stream are in order, and the cases tell streams by ranges of numbers.
        let place = |record: &serde_json::Value| format!("{}/{}", self.table, record["n"].as_u64().unwrap_or(0) / 1_000);
        admin.rows(self.table).await.into_iter().map(|record| Seen { place: place(&record), record }).collect()
    }

    fn poison(&self, n: u64) -> String {
        format!(r#"{{"n":"{n} is a text","pad":"the column is int64"}}"#)
    }

    async fn letters(&self) -> Arc<dyn Target> {
        Arc::new(Self::letters())
    }

    fn nowhere(&self) -> (SinkSpec, String) {
        (SinkSpec { destination: "table://default.absent".to_owned(), ..SinkSpec::default() }, "default.absent".to_owned())
    }
}
