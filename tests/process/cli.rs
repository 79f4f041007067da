//! Why: `datasink push` is what a shell script relies on: whatever breaks, the same command goes on and its exit code tells the truth. Never sends a line twice.

use std::{
    fmt::Write as _,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::server::{PATIENCE, Place, Run, Server};

const LINES: u64 = 200_000;

fn push<'p>(place: &'p Place, server: &Server, sink: &str) -> Run<'p> {
    place.program(&["push", "--address", &server.url(), "--sink", sink, "--token-file"]).arg(server.token_file())
}

fn numbers_file(place: &Place, count: u64) -> std::path::PathBuf {
    let mut text = String::new();
    for n in 0..count {
        writeln!(text, "{{\"n\":{n}}}").unwrap();
    }
    place.file("numbers.ndjson", text)
}

async fn prepared(place: &Place) -> Server {
    let server = place.start().await;
    server.admin().await.local_sink("default.t").await;
    server
}

#[tokio::test]
async fn a_file_is_sent_once_however_often_it_is_pushed() {
    let place = Place::new();
    let server = prepared(&place).await;
    let file = numbers_file(&place, 5_000);
    for (turn, says) in ["5,000 records delivered", "nothing was sent"].into_iter().enumerate() {
        let ended = push(&place, &server, "default.t").arg(&file).end().await;
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
        assert!(ended.stdout.starts_with(says) && ended.stdout.contains("is finished"), "turn {turn}: {}", ended.stdout);
    }
    assert_eq!(server.admin().await.numbers_in("default.t").await, (0..5_000).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn standard_input_is_a_file_too() {
    let place = Place::new();
    let server = prepared(&place).await;
    let file = numbers_file(&place, 2_500);
    let ended = push(&place, &server, "default.t").arg("-").stdin(&file).end().await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(server.admin().await.numbers_in("default.t").await, (0..2_500).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn a_push_outlives_the_servers_death() {
    let place = Place::new();
    let server = prepared(&place).await;
    let address = server.address().to_owned();
    let file = numbers_file(&place, LINES);
    let mut command = push(&place, &server, "default.t").arg(&file).background();
    wait_for_rows(&server).await;
    server.kill().await;
    assert!(command.ended().is_none(), "it was to be killed mid-way: {}", command.stderr());
    let server = place.serve().args(&["--listen", &address]).start().await;
    let ended = command.end().await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(server.admin().await.numbers_in("default.t").await, (0..LINES).collect::<Vec<_>>());

    let again = push(&place, &server, "default.t").arg(&file).end().await;
    assert_eq!(again.code(), 0, "{}", again.stderr);
    assert!(again.stdout.contains("is finished"), "{}", again.stdout);
    assert_eq!(server.admin().await.numbers_in("default.t").await.len() as u64, LINES);
    server.stop().await;
}

#[tokio::test]
async fn a_push_that_was_killed_goes_on_with_the_same_command() {
    let place = Place::new();
    let server = prepared(&place).await;
    let file = numbers_file(&place, LINES);
    let mut command = push(&place, &server, "default.t").arg(&file).background();
    wait_for_rows(&server).await;
    command.signal(Signal::KILL);
    command.wait(PATIENCE).await;
    let ended = push(&place, &server, "default.t").arg(&file).end().await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(server.admin().await.numbers_in("default.t").await, (0..LINES).collect::<Vec<_>>());
    server.stop().await;
}

/// Returns when some rows are delivered, long before all are.
async fn wait_for_rows(server: &Server) {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = server.metrics();
        let delivered = text.lines().find_map(|line| line.strip_prefix("datasink_delivered_records_total{kind=\"local\"} ")?.parse::<u64>().ok());
        if delivered.is_some_and(|rows| rows > 0) {
            return;
        }
        assert!(Instant::now() < until, "nothing is delivered");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn exit_codes_tell_what_to_do() {
    let place = Place::new();
    let server = prepared(&place).await;
    let file = numbers_file(&place, 10);

    push(&place, &server, "default.t").arg(place.path("absent.ndjson")).end().await.refused(64, &["absent.ndjson"]);
    push(&place, &server, "default.t").end().await.refused(64, &[]);
    push(&place, &server, "default.absent").arg(&file).end().await.refused(65, &["default.absent"]);
    let with_token = |token: &Path| place.program(&["push", "--address", &server.url(), "--sink", "default.t", "--token-file"]).arg(token).arg(&file);
    with_token(&place.file("bad.token", "dsk_0_0_0\n")).end().await.refused(65, &["UNAUTHENTICATED"]);
    with_token(&place.path("absent.token")).end().await.refused(64, &["absent.token"]);
    place.program(&["push", "--address", "nonsense", "--sink", "t"]).arg(&file).end().await.refused(64, &["nonsense"]);

    let bad = place.file("bad.ndjson", "{\"n\":1}\n{\"n\":\"x\"}\n{\"n\":3}\n");
    push(&place, &server, "default.t").arg(&bad).end().await.refused(65, &["record 1"]);
    assert_eq!(server.admin().await.numbers_in("default.t").await, [1], "all before the bad record is there, nothing behind it");
    server.stop().await;

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let nowhere = place.program(&["push", "--address", &format!("http://{free}"), "--sink", "t", "--give-up-after", "1"]).arg(&file);
    nowhere.end().await.refused(69, &[&free.to_string()]);
}
