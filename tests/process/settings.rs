//! Why: a setting means the same wherever it is said, the nearest word wins, and a misspelt one is told. Never lets a typing error pass for a default.

use std::collections::BTreeMap;

use crate::{
    server::{Place, Run},
    stream::{Stream, open},
};

/// `datasink settings`: value and origin of each, and the sentence.
async fn listed(run: Run<'_>) -> BTreeMap<String, (String, String, String)> {
    let ended = run.end().await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let mut settings = BTreeMap::new();
    for pair in lines.chunks(2) {
        let [setting, sentence] = pair else { panic!("a line without its sentence: {pair:?}") };
        let (name, rest) = setting.split_once(" = ").unwrap_or_else(|| panic!("name = value, not {setting:?}"));
        let (value, origin) = rest.rsplit_once("  (from ").unwrap_or_else(|| panic!("an origin, not {setting:?}"));
        settings.insert(name.to_owned(), (value.to_owned(), origin.trim_end_matches(')').to_owned(), sentence.trim().to_owned()));
    }
    settings
}

fn said(settings: &BTreeMap<String, (String, String, String)>, name: &str) -> (String, String) {
    let (value, origin, _) = settings.get(name).unwrap_or_else(|| panic!("{name} is not listed"));
    (value.clone(), origin.clone())
}

#[tokio::test]
async fn every_setting_is_listed_with_default_and_sentence() {
    let place = Place::new();
    let settings = listed(place.program(&["settings"])).await;
    assert!(settings.len() > 20, "{settings:?}");
    for (name, (value, origin, sentence)) in &settings {
        assert!(!value.is_empty() && origin == "the default", "{name}: {value} from {origin}");
        assert!(sentence.ends_with('.') && sentence.len() > 10, "{name}: {sentence:?}");
    }
    assert_eq!(said(&settings, "listen").0, "\"127.0.0.1:50051\"");
}

#[tokio::test]
async fn flag_before_environment_before_file_before_default() {
    let place = Place::new();
    let file = place.file("datasink.toml", "heartbeat_interval = \"21s\"\nsessions_max = 11\ncalls_max = 12\nlog = \"warn\"\n");
    let run = |arguments: &[&str]| place.program(&["settings"]).args(arguments);
    let default = listed(run(&[])).await;
    assert_eq!(said(&default, "heartbeat_interval"), ("\"15s\"".to_owned(), "the default".to_owned()));

    let all = listed(
        run(&["--log", "error"])
            .arg("--config")
            .arg(&file)
            .env("DATASINK_HEARTBEAT_INTERVAL", "22s")
            .env("DATASINK_SESSIONS_MAX", "13")
            .env("DATASINK_LOG", "debug"),
    )
    .await;
    assert_eq!(said(&all, "heartbeat_interval"), ("\"22s\"".to_owned(), "the environment".to_owned()));
    assert_eq!(said(&all, "sessions_max"), ("13".to_owned(), "the environment".to_owned()));
    assert_eq!(said(&all, "calls_max"), ("12".to_owned(), "the file".to_owned()));
    assert_eq!(said(&all, "log"), ("\"error\"".to_owned(), "a flag".to_owned()));
    assert_eq!(said(&all, "listen").1, "the default");
}

#[tokio::test]
async fn the_server_does_what_is_listed() {
    let place = Place::new();
    let file = place.file("datasink.toml", "heartbeat_interval = \"21s\"\nlisten = \"127.0.0.1:1\"\n");
    let server = place.serve().arg("--config").arg(&file).args(&["--listen", "127.0.0.1:0"]).start_as_is().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (stream, opened) = Stream::open(&admin, open("default.t", "s")).await;
    assert_eq!(opened.heartbeat_interval.unwrap().seconds, 21);
    drop((stream, admin));
    server.stop().await;

    let server =
        place.serve().env("DATASINK_CONFIG", &file).env("DATASINK_LISTEN", "127.0.0.1:0").env("DATASINK_HEARTBEAT_INTERVAL", "22s").start_as_is().await;
    let (stream, opened) = Stream::open(&server.admin().await, open("default.t", "s")).await;
    assert_eq!(opened.heartbeat_interval.unwrap().seconds, 22);
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_setting_is_an_error_wherever_it_is_said() {
    let place = Place::new();
    let file = place.file("datasink.toml", "heartbeat_intervall = \"21s\"\n");
    place.serve().arg("--config").arg(&file).start_refused().await.refused(64, &["heartbeat_intervall"]);
    place.serve().env("DATASINK_HEARTBEAT_INTERVALL", "21s").start_refused().await.refused(64, &["heartbeat_intervall"]);
    place.serve().args(&["--set", "heartbeat_intervall=21s"]).start_refused().await.refused(64, &["heartbeat_intervall"]);
    place.serve().args(&["--heartbeat-intervall", "21s"]).start_refused().await.refused(64, &["heartbeat-intervall"]);
}

#[tokio::test]
async fn an_impossible_setting_is_named() {
    let place = Place::new();
    let broken = place.file("broken.toml", "listen = ");
    place.serve().arg("--config").arg(&broken).start_refused().await.refused(64, &["broken.toml"]);
    place.serve().args(&["--config", "absent.toml"]).start_refused().await.refused(64, &["absent.toml"]);
    for (setting, word) in [
        ("heartbeat_interval=soon", "heartbeat_interval"),
        ("sessions_max=-1", "sessions_max"),
        ("sessions_max=0", "sessions_max"),
        ("drain_grace=1h", "drain_grace"),
        ("log=nonsense[", "log"),
    ] {
        place.serve().args(&["--set", setting]).start_refused().await.refused(64, &[word]);
    }
    place.serve().args(&["--listen", "localhost"]).start_refused().await.refused(64, &["listen", "localhost"]);
    place.serve().args(&["--metrics-listen", "9090"]).start_refused().await.refused(64, &["metrics_listen"]);
    assert!(!place.data_dir().exists(), "a server that never was leaves no folder");
}
