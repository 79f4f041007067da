//! Why: what may be said about a GCS sink, and what a checked one is. Never reads a credential and never connects.

use zeroize::Zeroizing;

use super::credential::Key;
use crate::connectors::{
    connector::SinkKind,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind as Kind},
    object::{CLOUD_OPTIONS, Endpoint, Host, OBJECT_OPTIONS, is_plain_name, name_fault, one_scheme},
    options::{COMMON, ConfigFault, ConfigFaultKind, OptionSpec, OptionType, Options, join},
};

const OWN: [OptionSpec; 3] = [
    OptionSpec::new("gcs_bucket_name", OptionType::Text, "Bucket.").place().required(),
    OptionSpec::new("gcs_project_id", OptionType::Text, "Project that requests are billed to, for buckets whose requester pays."),
    OptionSpec::new("gcs_service_account_keys", OptionType::Text, "The service account's key file as JSON text, instead of a credential.").secret(),
];

/// Every option of a GCS sink.
pub(super) static OPTIONS: [OptionSpec; COMMON.len() + CLOUD_OPTIONS.len() + OBJECT_OPTIONS.len() + OWN.len()] =
    join(&[&COMMON, &CLOUD_OPTIONS, &OBJECT_OPTIONS, &OWN]);

/// A checked GCS destination.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) project: Option<String>,
    pub(super) host: Host,
    pub(super) https: bool,
    pub(super) managed: bool,
    /// The key file in the sink's own options.
    pub(super) key: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("bucket", &self.bucket).field("host", &self.host).field("managed", &self.managed).finish_non_exhaustive()
    }
}

impl Place {
    /// Checks destination and options together; every fault at once.
    pub(super) fn check(destination: &Destination, options: &Options) -> Result<Self, Vec<ConfigFault>> {
        let text = |name: &str| options.text(name).map(str::to_owned);
        let (https, managed) = (options.flag("use_https"), options.flag("use_managed_credentials"));
        let bucket = text("gcs_bucket_name").unwrap_or_default();
        let mut faults = one_scheme(options, &["credential", "gcs_service_account_keys", "use_managed_credentials"]);
        let allowed = "3 to 63 lower-case letters, digits, \"-\", \"_\" and \".\" (222 with dots), a letter or digit at both ends";
        faults.extend(name_fault("gcs_bucket_name", &bucket, allowed, |name| {
            is_plain_name(name, 3, 222, b"-_.") && name.split('.').all(|part| (1..=63).contains(&part.len()))
        }));
        let project = text("gcs_project_id");
        if let Some(project) = &project {
            // Old ones have the domain of their organisation before a colon.
            let fits = |name: &str| (1..=200).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
            faults.extend(name_fault("gcs_project_id", project, "a project's id or number", fits));
        }
        let key = text("gcs_service_account_keys").map(Zeroizing::new);
        if let Some(Err(fault)) = key.as_ref().map(|key| Key::of_json(key)) {
            let message = format!("the value of option \"gcs_service_account_keys\" is not a service account's key file: {fault}");
            faults.push(ConfigFault::option(ConfigFaultKind::InvalidOption, "gcs_service_account_keys", message));
        }
        match Host::of(destination) {
            Err(more) => faults.extend(more),
            Ok(host) if faults.is_empty() => {
                let host = host.unwrap_or_else(|| Host::named("storage.googleapis.com"));
                return Ok(Self { bucket, project, host, https, managed, key });
            }
            Ok(_) => {}
        }
        Err(faults)
    }

    /// Where requests go.
    pub(super) fn endpoint(&self) -> Result<Endpoint, ConnectorError> {
        let url = self.host.url(self.https, None, None);
        let url =
            url.map_err(|fault| ConnectorError::new(Kind::Misconfigured, format!("the destination of the bucket {} is no host: {fault}", self.bucket)))?;
        Ok(Endpoint { url, verify_tls: true, kind: SinkKind::Gcs })
    }
}
