//! Why: one suite for every engine: what a map would answer, the store answers, also after it was opened again. Never trusts an engine's own word.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Condition, SharedStore, Store, StoreError, Table, Transaction,
    memory::MemoryStore,
    sled::{Durability, SledOptions, SledStore},
};
use crate::clock::Timestamp;

const A: Table = Table { name: "a", verified_at_open: true };
const B: Table = Table { name: "b", verified_at_open: false };

fn sled(dir: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(dir, SledOptions { ballast: false, ..SledOptions::default() })
}

#[derive(Debug, Clone)]
enum Step {
    Put(bool, u8, usize),
    Delete(bool, u8),
    /// Two writes, the second only if a key of the first table is absent.
    PutIfAbsent(u8, u8),
    Scan(bool, u8, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0..20_u8, prop_oneof![0..100_usize, 4_000..4_200_usize, 9_000..30_000_usize]).prop_map(|(t, k, n)| Step::Put(t, k, n)),
        2 => (any::<bool>(), 0..20_u8).prop_map(|(t, k)| Step::Delete(t, k)),
        2 => (0..20_u8, 0..20_u8).prop_map(|(k, guard)| Step::PutIfAbsent(k, guard)),
        1 => (any::<bool>(), 0..20_u8, 0..10_usize).prop_map(|(t, k, n)| Step::Scan(t, k, n)),
        1 => Just(Step::Reopen),
    ]
}

fn table(second: bool) -> Table {
    if second { B } else { A }
}

/// Keys of which some are prefixes of others.
fn key(number: u8) -> Vec<u8> {
    vec![b'k'; usize::from(number % 4) + 1].into_iter().chain([number / 4]).collect()
}

fn value(number: u8, length: usize) -> Bytes {
    (0..length).map(|at| number.wrapping_add((at / 7) as u8)).collect()
}

type Model = BTreeMap<(&'static str, Vec<u8>), Bytes>;

async fn play(steps: &[Step], mut store: SharedStore, reopen: impl Fn(SharedStore) -> SharedStore) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Put(second, k, length) => {
                store.transact(Transaction::new().put(table(*second), key(*k), value(*k, *length))).await.unwrap();
                model.insert((table(*second).name, key(*k)), value(*k, *length));
            }
            Step::Delete(second, k) => {
                store.transact(Transaction::new().delete(table(*second), key(*k))).await.unwrap();
                model.remove(&(table(*second).name, key(*k)));
            }
            Step::PutIfAbsent(k, guard) => {
                let transaction = Transaction::new().absent(A, key(*guard)).put(A, key(*k), value(1, 3)).put(B, key(*k), value(2, 5_000));
                let free = !model.contains_key(&("a", key(*guard)));
                let done = store.transact(transaction).await;
                prop_assert_eq!(done.is_ok(), free, "{:?}", done);
                if free {
                    model.insert(("a", key(*k)), value(1, 3));
                    model.insert(("b", key(*k)), value(2, 5_000));
                }
            }
            Step::Scan(second, k, limit) => {
                let found = store.scan(table(*second), b"k", Some(&key(*k)), *limit).await.unwrap();
                let wanted: Vec<_> = model
                    .iter()
                    .filter(|((t, at), _)| *t == table(*second).name && *at > key(*k))
                    .take(*limit)
                    .map(|((_, at), v)| (at.clone(), v.clone()))
                    .collect();
                prop_assert_eq!(found, wanted);
            }
            Step::Reopen => store = reopen(store),
        }
        for second in [false, true] {
            let found = store.scan(table(second), b"", None, usize::MAX).await.unwrap();
            let wanted: Vec<_> = model.iter().filter(|((t, _), _)| *t == table(second).name).map(|((_, at), v)| (at.clone(), v.clone())).collect();
            prop_assert_eq!(found, wanted);
        }
    }
    let verified = store.verify().await.unwrap();
    prop_assert_eq!(verified.faults, Vec::<String>::new());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn engines_answer_as_a_map_would(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(&steps, Arc::new(MemoryStore::new()), |store| store))?;
        let dir = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(sled(dir.path()).unwrap());
        runtime.block_on(play(&steps, store, |store| {
            drop(store);
            Arc::new(sled(dir.path()).unwrap())
        }))?;
    }
}

#[tokio::test]
async fn conditions_name_the_one_that_fails_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [SharedStore; 2] = [Arc::new(MemoryStore::new()), Arc::new(sled(dir.path()).unwrap())];
    for store in stores {
        store.transact(Transaction::new().put(A, b"x".to_vec(), "1")).await.unwrap();
        let transaction =
            Transaction { conditions: vec![Condition::Equals(A, b"x".to_vec(), "1".into()), Condition::Absent(A, b"x".to_vec())], writes: Vec::new() };
        assert!(matches!(store.transact(transaction.put(A, b"y".to_vec(), "2")).await, Err(StoreError::Conflict(1))));
        assert_eq!(store.get(A, b"y").await.unwrap(), None);
        let large = Transaction::new().put(A, vec![0; 2_000], "v");
        assert!(matches!(store.transact(large).await, Err(StoreError::TooLarge(_))));
    }
}

#[tokio::test]
async fn leases_have_one_holder_and_a_growing_number() {
    let store = MemoryStore::new();
    let ttl = Duration::from_secs(10);
    let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
    assert_eq!(store.lease("m", "one", at(0), ttl).await.unwrap().fencing_number, 1);
    assert_eq!(store.lease("m", "one", at(5), ttl).await.unwrap().fencing_number, 1);
    assert!(matches!(store.lease("m", "two", at(9), ttl).await, Err(StoreError::Conflict(_))));
    assert_eq!(store.lease("m", "two", at(16), ttl).await.unwrap().fencing_number, 2);
    assert!(matches!(store.lease("m", "one", at(17), ttl).await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn watchers_hear_of_their_prefix_only() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [SharedStore; 2] = [Arc::new(MemoryStore::new()), Arc::new(sled(dir.path()).unwrap())];
    for store in stores {
        let mut watch = store.watch(A, b"p/");
        store.transact(Transaction::new().put(A, b"q/1".to_vec(), "").put(B, b"p/1".to_vec(), "")).await.unwrap();
        store.transact(Transaction::new().put(A, b"p/1".to_vec(), "").delete(A, b"p/2".to_vec())).await.unwrap();
        assert_eq!(watch.next().await, Some(vec![b"p/1".to_vec(), b"p/2".to_vec()]));
    }
}

#[tokio::test]
async fn an_export_is_whole_or_refused_and_goes_into_an_empty_store_of_any_engine() {
    let dir = tempfile::tempdir().unwrap();
    let from = sled(&dir.path().join("from")).unwrap();
    for n in 0..50_u8 {
        from.transact(Transaction::new().put(if n % 2 == 0 { A } else { B }, vec![n], value(n, usize::from(n) * 300))).await.unwrap();
    }
    let file = dir.path().join("export");
    let count = from.export(&file).await.unwrap();
    let to = sled(&dir.path().join("to")).unwrap();
    let memory = MemoryStore::new();
    assert_eq!(memory.import(&file).await.unwrap(), count);
    assert_eq!(to.import(&file).await.unwrap(), count);
    for n in 0..50_u8 {
        let table = if n % 2 == 0 { A } else { B };
        assert_eq!(to.get(table, &[n]).await.unwrap(), Some(value(n, usize::from(n) * 300)));
        assert_eq!(memory.get(table, &[n]).await.unwrap(), Some(value(n, usize::from(n) * 300)));
    }
    assert!(to.import(&file).await.is_err(), "only into an empty store");
    let whole = std::fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        assert!(MemoryStore::new().import(&file).await.is_err(), "a flip at {at} is seen");
        std::fs::write(&file, &whole[..at]).unwrap();
        assert!(MemoryStore::new().import(&file).await.is_err(), "a cut at {at} is seen");
    }
}

#[tokio::test]
async fn two_opens_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let _first = sled(dir.path()).unwrap();
    let second = sled(dir.path()).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
}

#[tokio::test]
async fn flipped_bits_never_pass_for_rows() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let store = sled(&good).unwrap();
    for n in 0..400_u32 {
        store.transact(Transaction::new().put(A, n.to_be_bytes().to_vec(), value(n as u8, 150))).await.unwrap();
    }
    drop(store);
    let file = std::fs::read(good.join("db")).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut refused, mut intact) = (0, 0);
    for flip in 0..60_usize {
        let bad = dir.path().join(format!("bad{flip}"));
        std::fs::create_dir_all(bad.join("blobs")).unwrap();
        for name in ["conf", "witness"] {
            std::fs::copy(good.join(name), bad.join(name)).unwrap();
        }
        let mut bytes = file.clone();
        let at = (flip * 7_919 * 131) % bytes.len();
        bytes[at] ^= 1 << (flip % 8);
        std::fs::write(bad.join("db"), bytes).unwrap();
        match sled(&bad) {
            Err(_) => refused += 1,
            Ok(store) => {
                // Whatever opens must have every row as it was written: table A is verified when it opens.
                for n in 0..400_u32 {
                    assert_eq!(store.get(A, &n.to_be_bytes()).await.unwrap(), Some(value(n as u8, 150)), "flip {flip} lost row {n} in silence");
                }
                intact += 1;
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(refused > 0, "some flips must hit something ({intact} intact)");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_nothing_read_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions { ballast: false, durability: Durability::FailingSync, ..SledOptions::default() };
    let store = SledStore::open(dir.path(), options).unwrap();
    assert_eq!(store.get(A, b"x").await.unwrap(), None);
    let read = async {
        loop {
            match store.get(A, b"x").await {
                Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
                other => return other,
            }
        }
    };
    let conflict = store.transact(Transaction::new().absent(A, b"x".to_vec()).put(A, b"x".to_vec(), "2"));
    let (written, refused, read) = tokio::join!(store.transact(Transaction::new().put(A, b"x".to_vec(), "1")), conflict, read);
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "a refusal may rest on what was never durable: {refused:?}");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "what is not durable is not read: {read:?}");
    assert!(matches!(store.scan(A, b"", None, 9).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.transact(Transaction::new().put(A, b"y".to_vec(), "1")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.sync().await, Err(StoreError::Unavailable(_))));
    assert!(store.export(&dir.path().join("export")).await.is_err());
    drop(store);
    let again = sled(dir.path()).unwrap();
    again.transact(Transaction::new().put(A, b"y".to_vec(), "1")).await.unwrap();
    assert_eq!(again.verify().await.unwrap().faults, Vec::<String>::new());
}

#[tokio::test]
async fn a_first_start_that_was_killed_is_started_again_and_a_lost_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(::sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap());
    let store = sled(dir.path()).unwrap();
    store.transact(Transaction::new().put(A, b"x".to_vec(), "1")).await.unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("db")).unwrap();
    for snapshot in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.display().to_string().contains("snap.")) {
        std::fs::remove_file(snapshot).unwrap();
    }
    assert!(matches!(sled(dir.path()), Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn a_part_of_an_import_does_not_pass_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let facts = Table { name: "store_facts", verified_at_open: true };
    let store = sled(dir.path()).unwrap();
    store.transact(Transaction::new().put(facts, b"importing".to_vec(), "").put(A, b"x".to_vec(), "1")).await.unwrap();
    drop(store);
    assert!(matches!(sled(dir.path()), Err(StoreError::Corrupt(text)) if text.contains("interrupted")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_and_verifications_are_of_one_point_in_time() {
    let dir = tempfile::tempdir().unwrap();
    // What lies between the two tables gives the writer time while an export goes from one to the other.
    let table = |name| Table { name, verified_at_open: false };
    let (first, between, last) = (table("aa"), table("mm"), table("zz"));
    let store = Arc::new(sled(&dir.path().join("store")).unwrap());
    for n in 0..40_u32 {
        let rows = (0..100_u32).fold(Transaction::new(), |rows, at| rows.put(between, (n * 100 + at).to_be_bytes(), vec![1; 300]));
        store.transact(rows).await.unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writing = async {
        let mut n = 0_u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            store.transact(Transaction::new().put(first, n.to_be_bytes(), "").put(last, n.to_be_bytes(), "")).await.unwrap();
            n += 1;
        }
        n
    };
    // On a thread of its own: what reads must not hold up what writes.
    let reading = tokio::task::spawn_blocking({
        let (store, dir, runtime) = (store.clone(), dir.path().to_owned(), tokio::runtime::Handle::current());
        move || {
            for n in 0..8 {
                let file = dir.join(format!("export{n}"));
                runtime.block_on(store.export(&file)).unwrap();
                let copy = MemoryStore::new();
                runtime.block_on(copy.import(&file)).unwrap();
                let keys = |table| runtime.block_on(copy.scan(table, b"", None, usize::MAX)).unwrap();
                assert_eq!(keys(first), keys(last));
                assert_eq!(runtime.block_on(store.verify()).unwrap().faults, Vec::<String>::new());
            }
        }
    });
    let (read, written) = tokio::join!(
        async {
            let read = reading.await;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            read
        },
        writing
    );
    read.unwrap();
    assert!(written > 0);
}
