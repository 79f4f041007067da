//! Why: what is forgotten of streams, and what is not, is shown on the notes alone. Never opens a stream.

use super::*;
use crate::{
    connectors::connector::Mark,
    store::{SharedStore, memory::MemoryStore},
};

fn stream(name: &str) -> StreamId {
    StreamId { cluster: Uuid::nil(), sink: Uuid::max(), name: StreamName::parse(name).unwrap() }
}

fn kept(opened: i64, acknowledged: Option<i64>) -> Kept {
    Kept {
        mark: Mark { next: 7, ..Mark::default() },
        epoch: Epoch(1),
        planned_ends: Vec::new(),
        destination_generation: 1,
        receipts: Vec::new(),
        source: Source::Adhoc(String::new()),
        commit_mode: CommitMode::Continuous,
        duplicates: 0,
        delivered_bytes: 0,
        principal: "p".to_owned(),
        client_id: String::new(),
        opened: Timestamp::from_micros(opened),
        acknowledged: acknowledged.map(Timestamp::from_micros),
    }
}

#[tokio::test]
async fn only_streams_that_nobody_goes_on_with_are_forgotten() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let progress = KeptProgress::new(store);
    for (name, note) in [
        ("old", kept(1, Some(9))),
        ("never-acknowledged", kept(9, None)),
        ("acknowledged-since", kept(1, Some(10))),
        ("opened-since", kept(10, None)),
        ("live", kept(1, Some(2))),
    ] {
        progress.save(&stream(name), &note, Durable::Now).await.unwrap();
    }
    progress.save(&stream("noted-soon"), &kept(1, None), Durable::Now).await.unwrap();
    progress.save(&stream("noted-soon"), &kept(1, Some(11)), Durable::Soon).await.unwrap();
    let live = stream_key(Uuid::max(), "live");
    let idle = |last: Timestamp| last < Timestamp::from_micros(10);
    assert_eq!(progress.forget_idle(idle, |key| *key == live).await.unwrap(), 2);
    let mut left = Vec::new();
    for name in ["old", "never-acknowledged", "acknowledged-since", "opened-since", "live", "noted-soon"] {
        if progress.load(&stream(name)).await.unwrap().is_some() {
            left.push(name);
        }
    }
    assert_eq!(left, ["acknowledged-since", "opened-since", "live", "noted-soon"]);
    assert_eq!(progress.forget_idle(idle, |_| false).await.unwrap(), 1, "whoever was live is not any more");
}
