//! Why: everything that knows a destination lives here, one folder a sink kind. Never knows sessions, permissions or who is calling.

pub mod azure;
pub mod connector;
pub mod credential;
pub mod destination;
pub mod egress;
pub mod error;
pub mod gcs;
pub mod kafka;
mod messages;
mod object;
pub mod options;
pub mod s3;
mod steps;
pub mod webhook;

pub mod local;

use std::{fmt, sync::Arc};

use self::{
    connector::{Descriptor, Guarantee, Guide, Kind},
    credential::CredentialType,
    destination::Destination,
    options::{ConfigFault, Options},
};

/// What a sink writes to. The eight kinds of the product; the numbers are those of the interface and of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// Azure Blob Storage.
    Azure = 1,
    /// Google Cloud Storage.
    Gcs = 2,
    /// Hadoop.
    Hdfs = 3,
    /// SQL databases.
    Jdbc = 4,
    /// Kafka.
    Kafka = 5,
    /// A table of this service.
    Local = 6,
    /// Amazon S3 and what speaks its protocol.
    S3 = 7,
    /// HTTP receivers.
    Webhook = 8,
}

impl SinkKind {
    /// Every kind, by name.
    pub const ALL: [Self; 8] = [Self::Azure, Self::Gcs, Self::Hdfs, Self::Jdbc, Self::Kafka, Self::Local, Self::S3, Self::Webhook];

    /// The word for it in messages, options and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::Gcs => "gcs",
            Self::Hdfs => "hdfs",
            Self::Jdbc => "jdbc",
            Self::Kafka => "kafka",
            Self::Local => "local",
            Self::S3 => "s3",
            Self::Webhook => "webhook",
        }
    }

    /// The kind of this number.
    pub fn of_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i32 == number)
    }

    /// Whether destinations of this kind normally live at private addresses, so that the address filter lets it go there.
    pub const fn lives_in_private(self) -> bool {
        match self {
            Self::Hdfs | Self::Jdbc | Self::Kafka | Self::Local => true,
            Self::Azure | Self::Gcs | Self::S3 | Self::Webhook => false,
        }
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The table of kinds: one row each. A new kind adds its row here and touches no other existing file.
#[derive(Debug, Clone)]
pub struct Kinds(Arc<[Arc<dyn Kind>]>);

impl Kinds {
    /// Every kind of the product, by name.
    pub fn standard(local: local::Local) -> Self {
        Self(Arc::new([
            Arc::new(azure::Azure) as Arc<dyn Kind>,
            Arc::new(gcs::Gcs),
            Arc::new(NotYet(&HDFS)),
            Arc::new(NotYet(&JDBC)),
            Arc::new(kafka::Kafka),
            Arc::new(local),
            Arc::new(s3::S3),
            Arc::new(webhook::Webhook),
        ]))
    }

    /// The same table with `kind` in the place of the row of its kind: tests and benches put an in-process connector there.
    #[must_use]
    pub fn with(&self, kind: Arc<dyn Kind>) -> Self {
        let place = kind.descriptor().kind;
        Self(self.0.iter().map(|row| if row.descriptor().kind == place { kind.clone() } else { row.clone() }).collect())
    }

    /// Every row, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Kind>> {
        self.0.iter()
    }

    /// The row of a kind.
    pub fn get(&self, kind: SinkKind) -> Option<&Arc<dyn Kind>> {
        self.0.iter().find(|row| row.descriptor().kind == kind)
    }

    /// The row whose scheme a destination has; a fault names the schemes there are.
    pub fn of(&self, destination: &Destination) -> Result<&Arc<dyn Kind>, ConfigFault> {
        self.0.iter().find(|row| row.descriptor().schemes.contains(&destination.scheme())).ok_or_else(|| {
            let schemes: Vec<&str> = self.0.iter().flat_map(|row| row.descriptor().schemes.iter().copied()).collect();
            ConfigFault::destination(format!("unknown scheme {:?}; known ones are {}", destination.scheme(), schemes.join(", ")))
                .with("scheme", destination.scheme())
        })
    }
}

/// A kind that this build lists and honestly refuses.
#[derive(Debug)]
struct NotYet(&'static Descriptor);

impl Kind for NotYet {
    fn descriptor(&self) -> &'static Descriptor {
        self.0
    }

    fn configure(&self, _: &Destination, _: &Options) -> Result<Arc<dyn connector::Connector>, Vec<ConfigFault>> {
        Err(vec![ConfigFault::destination(format!("{} sinks are not in this build yet", self.0.kind))])
    }
}

const NOT_YET: Option<&str> = Some("this kind is not in this build yet");

macro_rules! not_yet {
    ($name:ident, $kind:ident, $scheme:literal, $example:literal, [$($credential:ident),*], $finish:literal) => {
        static $name: Descriptor = Descriptor {
            kind: SinkKind::$kind,
            schemes: &[$scheme],
            example_destination: $example,
            options: &[],
            credential_types: &[$(CredentialType::$credential),*],
            guarantee: Guarantee::ExactlyOnce,
            commit_on_finish: $finish,
            unavailable: NOT_YET,
            guide: Guide::NONE,
        };
    };
}

not_yet!(HDFS, Hdfs, "hdfs", "hdfs://namenode:8020", [Hdfs], true);
not_yet!(JDBC, Jdbc, "jdbc", "jdbc:postgresql://host:5432/database", [Jdbc], true);
