//! Why: what every bench of sinks needs of the product: a server, credentials and sinks made through its interface, and what a process holds. Never a shortcut past the interface.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use datasink::{
    api::pb::{CreateDataSinkRequest, data_sink_service_client::DataSinkServiceClient},
    app::{App, Parts, Running},
    config::Settings,
};

use crate::load::channel;

/// A server of this process that asks for no token.
pub async fn server(dir: &Path, parts: Parts) -> Running {
    server_with(dir, parts, |_| ()).await
}

/// The same with other settings.
pub async fn server_with(dir: &Path, parts: Parts, change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings::defaults();
    settings.listen = "127.0.0.1:0".to_owned();
    settings.data_dir = dir.join("data");
    settings.insecure_anonymous_admin = true;
    settings.egress_allow = vec!["127.0.0.0/8".parse().expect("a network")];
    change(&mut settings);
    App::start(settings, parts).await.expect("the server starts")
}

/// Creates a sink, connecting to it first.
pub async fn sink(address: &str, name: &str, destination: &str, options: &[(&str, &str)]) {
    let request = CreateDataSinkRequest {
        name: name.to_owned(),
        destination: destination.to_owned(),
        options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<HashMap<_, _>>(),
        ..CreateDataSinkRequest::default()
    };
    DataSinkServiceClient::new(channel(address).await).create_data_sink(request).await.expect("the sink is made");
}

/// A server in a process of its own, whose memory is nobody else's; killed when it is dropped.
pub struct Process {
    child: Child,
    pub address: String,
}

impl Process {
    /// Starts it with more flags than every bench's.
    pub fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_datasink"))
            .args(["serve", "--listen", "127.0.0.1:0", "--insecure-anonymous-admin", "--drain-delay", "0s", "--log", "error", "--data-dir"])
            .arg(dir.join("data"))
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("the ready line");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
        Self { child, address: ready["listening"].as_str().expect("an address").to_owned() }
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("the server ends");
        self.child.wait().expect("the server ended");
    }
}
