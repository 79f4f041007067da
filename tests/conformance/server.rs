//! Why: a server on a runtime of its own, so that it can be killed with everything that it was doing, and another one can start on what it left. Never stops a server kindly.

use std::sync::Arc;

use datasink::{
    app::{App, Parts, Running},
    config::Settings,
    connectors::connector::Kind,
    domain::PasswordCost,
    store::memory::MemoryStore,
};
use tokio::runtime::Runtime;

use crate::support::Caller;

/// What outlives a server.
#[derive(Clone)]
pub struct Left {
    dir: Arc<tempfile::TempDir>,
    store: Arc<MemoryStore>,
    rows: Vec<Arc<dyn Kind>>,
}

impl Left {
    pub fn new(rows: Vec<Arc<dyn Kind>>) -> Self {
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), store: Arc::new(MemoryStore::new()), rows }
    }
}

/// A running server.
pub struct Server {
    runtime: Option<Runtime>,
    running: Running,
    token: String,
}

impl Server {
    /// Starts one on what an earlier one left, which may still run: then there are two.
    pub async fn start(left: &Left) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("server").enable_all().build().unwrap();
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".to_owned();
        settings.data_dir = left.dir.path().join("data");
        settings.egress_allow = vec!["127.0.0.0/8".parse().unwrap()];
        settings.heartbeat_interval = std::time::Duration::from_secs(2);
        let passwords = PasswordCost { memory_kib: 64, passes: 1, at_once: 4 };
        let parts = Parts { store: Some(left.store.clone()), kinds: left.rows.clone(), passwords, ..Parts::default() };
        let running = runtime.spawn(App::start(settings, parts)).await.unwrap().unwrap();
        let token_file = running.admin_token_file.clone().expect("the first server wrote the first admin's token");
        let token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        Self { runtime: Some(runtime), running, token }
    }

    pub fn address(&self) -> &str {
        &self.running.address
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn admin(&self) -> Caller {
        Caller::at(&self.running.address, &self.token)
    }
}

impl Server {
    /// No task gets to its next step.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
