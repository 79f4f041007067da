//! Why: what a power cut may leave of the store's file is generated from a trace of its system calls, opened, and compared with what was acknowledged. Needs strace.
//!
//! Everything written before the start of the last finished sync is on the disk; every later write is cut into sectors or pages, and each piece is there or not.
//! The control run leaves the sync out and must lose acknowledged rows, or this test would be blind.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use datasink::store::{
    Store, Table, Transaction,
    sled::{Durability, SledOptions, SledStore},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const A: Table = Table { name: "a", verified_at_open: true };
const B: Table = Table { name: "b", verified_at_open: true };
const STATES: usize = 2_000;
const CONTROL_STATES: usize = 200;
const OPERATIONS: u64 = 900;

fn options(durability: Durability) -> SledOptions {
    SledOptions { ballast: false, durability, ..SledOptions::default() }
}

/// What operation `n` writes: one key, one key again and again, the same key of two tables, or a large value.
fn transaction(n: u64) -> Transaction {
    let value = |length: usize| Bytes::from([n.to_be_bytes().to_vec(), vec![n as u8; length]].concat());
    match n % 5 {
        0 => Transaction::new().put(A, format!("own/{n}"), value(100)),
        1 => Transaction::new().put(A, format!("again/{}", n % 7), value(300)),
        2 | 3 => Transaction::new().put(A, format!("pair/{}", n % 40), value(60)).put(B, format!("pair/{}", n % 40), value(60)),
        _ => Transaction::new().put(B, format!("large/{}", n % 9), value(9_000)),
    }
}

/// Run as the traced process: writes, and prints `ACK n` once everything up to `n` was answered.
#[test]
fn writer() {
    let Ok(dir) = std::env::var("DATASINK_CRASH_WRITER") else { return };
    let durability = if std::env::var("DATASINK_CRASH_CONTROL").is_ok() { Durability::WithoutSync } else { Durability::Full };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(Path::new(&dir), options(durability)).unwrap();
        let mut n = 0;
        while n < OPERATIONS {
            // Alone at first, then in groups that share a sync.
            let group = if n < OPERATIONS / 2 { 1 } else { 12 };
            let answers = futures::future::join_all((n..n + group).map(|n| store.transact(transaction(n)))).await;
            assert!(answers.iter().all(Result::is_ok));
            n += group;
            std::io::stdout().write_all(format!("ACK {}\n", n - 1).as_bytes()).unwrap();
            std::io::stdout().flush().unwrap();
        }
    });
}

#[derive(Debug)]
enum Event {
    Write { start: usize, end: usize, offset: u64, bytes: Vec<u8> },
    Witness { start: usize, bytes: Vec<u8> },
    Sync { start: usize, end: usize },
    Truncate { end: usize, length: u64 },
    Ack { end: usize, n: u64 },
}

/// Runs the writer under strace and reads its calls on the store's file in the order in which they began and ended.
fn trace(dir: &Path, control: bool) -> Vec<Event> {
    let log = dir.join("strace");
    let store = dir.join("store");
    let mut command = Command::new("strace");
    command.args(["-f", "-xx", "-s", "2000000", "-e", "trace=pwrite64,fsync,fdatasync,ftruncate,write,openat,close", "-o"]).arg(&log);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "writer", "--nocapture"]).env("DATASINK_CRASH_WRITER", &store);
    if control {
        command.env("DATASINK_CRASH_CONTROL", "1");
    }
    let run = command.output().expect("strace is needed for this test: install the package of that name");
    assert!(run.status.success(), "the writer failed: {}", String::from_utf8_lossy(&run.stderr));
    parse(&fs::read_to_string(log).unwrap())
}

fn parse(log: &str) -> Vec<Event> {
    let mut begun: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let (mut files, mut witnesses) = (BTreeSet::new(), BTreeSet::new());
    let mut events = Vec::new();
    for (line, text) in log.lines().enumerate() {
        let Some((process, call)) = text.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(unfinished) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(process, (line, unfinished.to_owned()));
            continue;
        }
        let (start, call) = match call.strip_prefix("<... ").and_then(|resumed| resumed.split_once(" resumed>")) {
            Some((_, rest)) => {
                let Some((start, first)) = begun.remove(process) else { continue };
                (start, first + rest)
            }
            None => (line, call.to_owned()),
        };
        let Some((name, rest)) = call.split_once('(') else { continue };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { continue };
        let arguments: Vec<&str> = arguments.trim_end().trim_end_matches(')').split(", ").collect();
        let result: i64 = result.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(-1);
        if result < 0 {
            continue;
        }
        match name {
            "openat" => {
                let path = String::from_utf8(unhex(arguments[1])).unwrap_or_default();
                if path.ends_with("/store/db") {
                    files.insert(result.to_string());
                } else if path.ends_with("/store/witness") {
                    witnesses.insert(result.to_string());
                }
            }
            "close" => {
                files.remove(arguments[0]);
                witnesses.remove(arguments[0]);
            }
            "pwrite64" if files.contains(arguments[0]) => {
                let mut bytes = unhex(arguments[1]);
                bytes.truncate(usize::try_from(result).unwrap());
                events.push(Event::Write { start, end: line, offset: arguments[3].parse().unwrap(), bytes });
            }
            "pwrite64" if witnesses.contains(arguments[0]) => events.push(Event::Witness { start, bytes: unhex(arguments[1]) }),
            "fsync" | "fdatasync" if files.contains(arguments[0]) => events.push(Event::Sync { start, end: line }),
            "ftruncate" if files.contains(arguments[0]) => events.push(Event::Truncate { end: line, length: arguments[1].parse().unwrap() }),
            "write" if arguments[0] == "1" => {
                let text = String::from_utf8(unhex(arguments[1])).unwrap_or_default();
                if let Some(n) = text.strip_prefix("ACK ").and_then(|n| n.trim().parse().ok()) {
                    events.push(Event::Ack { end: line, n });
                }
            }
            _ => {}
        }
    }
    events
}

/// `"\x41\x42"` as bytes.
fn unhex(text: &str) -> Vec<u8> {
    text.trim_matches('"').split("\\x").skip(1).map(|pair| u8::from_str_radix(&pair[..2], 16).unwrap()).collect()
}

/// One legal state of the disk after a power cut, with the last operation acknowledged before it.
fn crash_state(events: &[Event], random: &mut StdRng) -> (Vec<u8>, Option<Vec<u8>>, u64) {
    let acks: Vec<(usize, u64)> = events.iter().filter_map(|event| if let Event::Ack { end, n } = event { Some((*end, *n)) } else { None }).collect();
    let cut = random.random_range(acks[0].0..=acks[acks.len() - 1].0);
    let durable =
        events.iter().filter_map(|event| if let Event::Sync { start, end } = event { (*end <= cut).then_some(*start) } else { None }).max().unwrap_or(0);
    let acked = acks.iter().filter(|(end, _)| *end <= cut).map(|(_, n)| *n).max().unwrap();
    let (kept, piece) = (*[0.0, 0.2, 0.5, 0.8, 1.0].get(random.random_range(0..5)).unwrap(), if random.random() { 512 } else { 4_096 });
    let mut image = Vec::new();
    let mut put = |offset: u64, bytes: &[u8]| {
        let offset = usize::try_from(offset).unwrap();
        if image.len() < offset + bytes.len() {
            image.resize(offset + bytes.len(), 0);
        }
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    let mut truncated = None;
    let mut witness = None;
    for event in events {
        match event {
            Event::Write { start, end, offset, bytes } if *start <= cut => {
                if *end < durable {
                    put(*offset, bytes);
                    continue;
                }
                let mut at = *offset;
                while at < offset + bytes.len() as u64 {
                    let next = (offset + bytes.len() as u64).min((at / piece + 1) * piece);
                    if random.random_bool(kept) {
                        put(at, &bytes[usize::try_from(at - offset).unwrap()..usize::try_from(next - offset).unwrap()]);
                    }
                    at = next;
                }
            }
            Event::Truncate { end, length } if *end < durable => truncated = Some(*length),
            // Never synced by itself: any earlier one may be what is left.
            Event::Witness { start, bytes } if *start <= cut && random.random_bool(kept) => {
                witness = Some(bytes.clone());
            }
            _ => {}
        }
    }
    assert!(truncated.is_none_or(|length| length == 0), "the workload only grows the file");
    (image, witness, acked)
}

/// What is wrong with a state: it does not open, panics, lost an acknowledged operation, tore one, or shows a wrong value.
fn fault(dir: &Path, image: &[u8], witness: Option<&[u8]>, conf: &Path, acked: u64) -> Option<String> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir.join("blobs")).unwrap();
    fs::copy(conf, dir.join("conf")).unwrap();
    fs::write(dir.join("db"), image).unwrap();
    if let Some(witness) = witness {
        fs::write(dir.join("witness"), witness).unwrap();
    }
    let opened = catch_unwind(AssertUnwindSafe(|| SledStore::open(dir, options(Durability::Full))));
    let store = match opened {
        Err(_) => return Some("open panicked".to_owned()),
        Ok(Err(error)) => return Some(format!("open failed: {error}")),
        Ok(Ok(store)) => store,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut wanted: BTreeMap<(Table, Vec<u8>), u64> = BTreeMap::new();
    for n in 0..=acked {
        for write in transaction(n).writes {
            if let datasink::store::Write::Put(table, key, _) = write {
                wanted.insert((table, key), n);
            }
        }
    }
    for ((table, key), n) in wanted {
        let name = String::from_utf8_lossy(&key).into_owned();
        let value = match runtime.block_on(store.get(table, &key)) {
            Ok(Some(value)) => value,
            Ok(None) => return Some(format!("{name} of operation {n} is lost, {acked} was acknowledged")),
            Err(error) => return Some(format!("{name}: {error}")),
        };
        let found = u64::from_be_bytes(value[..8].try_into().unwrap());
        if found < n {
            return Some(format!("{name} is of operation {found}, {n} was acknowledged"));
        }
        if value[8..].iter().any(|byte| *byte != found as u8) {
            return Some(format!("{name} has a value that was never written"));
        }
        if name.starts_with("pair/") && runtime.block_on(store.get(if table == A { B } else { A }, &key)).ok().flatten() != Some(value) {
            return Some(format!("{name} is torn between two tables"));
        }
    }
    None
}

/// Opens `count` states on all cores; the faults found.
fn examine(dir: &Path, events: &[Event], count: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::panic::set_hook(Box::new(|_| {}));
    let faults = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                let next = &next;
                scope.spawn(move || {
                    let mut faults = Vec::new();
                    let state_dir: PathBuf = dir.join(format!("state{worker}"));
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= count {
                            return faults;
                        }
                        let (image, witness, acked) = crash_state(events, &mut StdRng::seed_from_u64(seed as u64));
                        if let Some(fault) = fault(&state_dir, &image, witness.as_deref(), &dir.join("store/conf"), acked) {
                            faults.push(format!("state {seed}: {fault}"));
                        }
                    }
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    let _ = std::panic::take_hook();
    faults
}

#[test]
fn no_power_cut_loses_an_acknowledged_operation_and_the_control_run_does() {
    if std::env::var("DATASINK_CRASH_WRITER").is_ok() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let events = trace(dir.path(), false);
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync { .. })).count();
    assert!(syncs > 400, "the trace shows {syncs} syncs only");
    let faults = examine(dir.path(), &events, STATES);
    assert!(faults.is_empty(), "{} of {STATES} states are bad:\n{}", faults.len(), faults.iter().take(10).cloned().collect::<Vec<_>>().join("\n"));

    let dir = tempfile::tempdir().unwrap();
    let faults = examine(dir.path(), &trace(dir.path(), true), CONTROL_STATES);
    println!("{STATES} states without a fault; without the sync {} of {CONTROL_STATES} lose something", faults.len());
    assert!(faults.len() > CONTROL_STATES / 4, "without the sync only {} of {CONTROL_STATES} states lost something: this test is blind", faults.len());
}
