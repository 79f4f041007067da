//! Why: what the cases must know of a kind: how to get a fresh destination, how to read it back, how to break it, and what it promises. Never how Datasink writes to it.

use std::sync::Arc;

use async_trait::async_trait;
use datasink::{
    api::pb::{CredentialType, DeliveryGuarantee},
    connectors::connector::Kind as ServerKind,
};
use serde_json::Value;

use crate::support::Caller;

/// A row of the table of kinds under test.
#[async_trait]
pub trait Kind: Send + Sync {
    /// As it is called in trials and in CONFORMANCE_KINDS.
    fn name(&self) -> &'static str;

    fn promises(&self) -> Promises;

    /// What the environment lacks to run it.
    fn missing(&self) -> Option<String> {
        None
    }

    /// A destination that nobody has written to.
    async fn target(&self) -> Arc<dyn Target>;

    /// One that asks for a credential, where not every one does.
    async fn guarded_target(&self) -> Arc<dyn Target> {
        self.target().await
    }
}

/// What a kind is held to.
#[derive(Debug, Clone, Copy)]
pub struct Promises {
    /// What `opened` must announce.
    pub guarantee: DeliveryGuarantee,
    /// The mark lies at the destination, so that records and mark can be compared.
    pub mark_kept: bool,
    /// What stops a writer that another one has followed.
    pub fence: Fence,
    /// A crash may leave records twice for a reader that does not de-duplicate.
    pub copies_after_crash: bool,
    /// Cases that do not apply, each with the reason.
    pub declines: &'static [(&'static str, &'static str)],
}

/// What stops a writer that another one has followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The destination refuses its next commit.
    Destination,
    /// The name of what it would write next is taken; it may go on only with what is there already.
    Names,
    /// Our own store, before anything is sent.
    Note,
}

/// How a sink onto a destination is made.
#[derive(Debug, Clone, Default)]
pub struct SinkSpec {
    pub destination: String,
    pub options: Vec<(String, String)>,
    pub credential: Option<CredentialSpec>,
}

impl SinkSpec {
    /// The same with these options, in place of those that it has of their names.
    #[must_use]
    pub fn with(mut self, options: Vec<(String, String)>) -> Self {
        self.options.retain(|(name, _)| options.iter().all(|(new, _)| new != name));
        self.options.extend(options);
        self
    }
}

/// How a credential is made.
#[derive(Debug, Clone)]
pub struct CredentialSpec {
    pub credential_type: CredentialType,
    pub identity: String,
    pub secret: String,
    /// What else its type needs.
    pub options: Vec<(String, String)>,
}

/// Options that make a form of objects, and a sink of them.
pub type Form = Vec<(String, String)>;

/// A record as a stranger finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Within one place (a table, a partition, a folder of objects) records have an order.
    pub place: String,
    pub record: Value,
}

impl Seen {
    /// The record's number; `u64::MAX` for what was never sent.
    pub fn n(&self) -> u64 {
        self.record["n"].as_u64().unwrap_or(u64::MAX)
    }
}

/// One fresh destination. What a kind declines is never asked of it.
#[async_trait]
pub trait Target: Send + Sync {
    /// Rows for the server's own table of kinds: the reference kinds in memory are no part of the product.
    fn rows(&self) -> Vec<Arc<dyn ServerKind>> {
        Vec::new()
    }

    /// Makes at the server what the sink needs there.
    async fn prepare(&self, _admin: &Caller) {}

    /// The sink onto it.
    fn sink(&self) -> SinkSpec;

    /// Everything that a reader sees there, by a tool that is not ours, in the destination's order.
    async fn read(&self, admin: &Caller) -> Vec<Seen>;

    /// A record that never can be taken.
    fn poison(&self, n: u64) -> String;

    /// Where dead letters can go: another fresh destination, of the same kind where its records can be anything.
    async fn letters(&self) -> Arc<dyn Target>;

    /// Lets the next commit take effect and loses what is said about it.
    async fn lose_reply(&self) {
        unreachable!("this kind declines it")
    }

    /// How often [`Target::lose_reply`] happened.
    fn replies_lost(&self) -> u64 {
        unreachable!("this kind declines it")
    }

    /// Refuses every connection, the open ones at once.
    async fn down(&self) {
        unreachable!("this kind declines it")
    }

    /// As before.
    async fn up(&self) {
        unreachable!("this kind declines it")
    }

    /// Cuts the connection while a unit of this many bytes and more is on its way, and lets nothing through until [`Target::up`]. Returns once that happened.
    async fn break_in_the_middle(&self) {
        unreachable!("this kind declines it")
    }

    /// Makes the next unit slow enough to be cut.
    async fn slow(&self) {
        unreachable!("this kind declines it")
    }

    /// Restored from a backup that lacks the newest records of stream `stream`, of which `kept` stay.
    async fn go_back(&self, _stream: &str, _kept: u64) {
        unreachable!("this kind declines it")
    }

    /// A credential that is refused.
    fn wrong_credential(&self) -> CredentialSpec {
        unreachable!("this kind declines it")
    }

    /// Another good credential; from then on the first one is refused.
    async fn rotate(&self) -> CredentialSpec {
        unreachable!("this kind declines it")
    }

    /// Called once the new credential is stored: the first one is refused from here on.
    async fn retire_first_credential(&self) {
        unreachable!("this kind declines it")
    }

    /// Requests or connections that reached it so far.
    fn attempts(&self) -> u64 {
        unreachable!("this kind declines it")
    }

    /// A sink onto something that is not there (a topic, a bucket, a path), and the word that the error must name.
    fn nowhere(&self) -> (SinkSpec, String) {
        unreachable!("this kind declines it")
    }

    /// A record that is larger than the sink allows; where it has no limit of its own, than the service does.
    fn too_large(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{}"}}"#, "x".repeat(datasink::limits::RECORD_BYTES_MAX))
    }

    /// Options that place records by the field `region`, and a record that lacks it.
    fn template(&self) -> (Vec<(String, String)>, String) {
        unreachable!("this kind declines it")
    }

    /// The forms that records can be written in, each by its options.
    fn forms(&self) -> Vec<Form> {
        unreachable!("this kind declines it")
    }

    /// Objects that are under way in parts, by their keys; looked for are those that the service wrote down, and `known` ones.
    async fn uploads(&self, _known: &[String]) -> Vec<String> {
        unreachable!("this kind declines it")
    }

    /// How many pieces of output are there that no reader counts.
    async fn unnamed(&self) -> usize {
        unreachable!("this kind declines it")
    }
}
