//! Why: a webhook receiver that a test can make slow, broken or silent, and that keeps what it accepted. Never part of the product.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};

/// What the receiver does with the next request.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// This status; the request is not taken.
    Status(u16),
    /// Taken, but the answer comes late.
    Late(Duration),
    /// Not taken, and no answer until the test ends.
    Never,
}

/// One accepted request.
#[derive(Debug, Clone)]
pub struct Taken {
    pub id: String,
    pub body: Bytes,
}

#[derive(Default)]
struct Inner {
    script: VecDeque<Answer>,
    always: Option<Answer>,
    taken: Vec<Taken>,
}

/// The receiver.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    pub url: String,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&inner));
        #[expect(clippy::disallowed_methods, reason = "the receiver lives as long as its test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, url }
    }

    /// The next requests get these answers, one each.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inner.lock().unwrap().script.extend(answers);
    }

    /// Every request gets this answer until `None` is said.
    pub fn always(&self, answer: Option<Answer>) {
        self.inner.lock().unwrap().always = answer;
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.inner.lock().unwrap().taken.clone()
    }

    /// The records of all accepted requests, in order; a repeated id counts once.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let mut seen = std::collections::HashSet::new();
        let mut records = Vec::new();
        for taken in self.taken() {
            if seen.insert(taken.id.clone()) {
                match serde_json::from_slice(&taken.body).expect("JSON") {
                    serde_json::Value::Array(all) => records.extend(all),
                    one => records.push(one),
                }
            }
        }
        records
    }
}

async fn take(State(inner): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let answer = {
        let mut inner = inner.lock().unwrap();
        inner.always.or_else(|| inner.script.pop_front())
    };
    match answer {
        Some(Answer::Status(code)) => return StatusCode::from_u16(code).unwrap(),
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::Late(_)) | None => {}
    }
    let id = headers.get("webhook-id").expect("every request has an id").to_str().unwrap().to_owned();
    inner.lock().unwrap().taken.push(Taken { id, body });
    if let Some(Answer::Late(pause)) = answer {
        tokio::time::sleep(pause).await;
    }
    StatusCode::NO_CONTENT
}
