//! Why: what may be said about an S3 sink, and what a checked one is. Never reads a credential and never connects.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::connectors::{
    connector::SinkKind,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind as Kind},
    object::{CLOUD_OPTIONS, Endpoint, Host, OBJECT_OPTIONS, is_plain_name, name_fault, one_scheme},
    options::{COMMON, ConfigFault, ConfigFaultKind, OptionSpec, OptionType, Options, join},
};

const OWN: [OptionSpec; 9] = [
    OptionSpec::new("s3_bucket_name", OptionType::Text, "Bucket.").place().required(),
    OptionSpec::new("s3_region", OptionType::Text, "Region of the bucket; also forms the default host, s3.REGION.amazonaws.com.").place().required(),
    OptionSpec::new("s3_verify_ssl", OptionType::Bool, "Whether the store's certificate is verified; false is for tests with self-signed ones.").or("true"),
    OptionSpec::new("s3_use_virtual_addressing", OptionType::Bool, "Whether the bucket is part of the host name (true) or of the path (false).")
        .place()
        .or("true"),
    OptionSpec::new("s3_aws_role_arn", OptionType::Text, "Role to assume with the credential's keys."),
    OptionSpec::new(
        "s3_encryption_type",
        OptionType::Enum(&["AES256", "aws:kms", "aws:kms:dsse"]),
        "How the store encrypts objects, with keys of its own or of its KMS.",
    ),
    OptionSpec::new("s3_kms_key_id", OptionType::Text, "Key of the store's KMS; alone it means s3_encryption_type=aws:kms."),
    OptionSpec::new("s3_encryption_customer_algorithm", OptionType::Enum(&["AES256"]), "How the store encrypts objects with s3_encryption_customer_key."),
    OptionSpec::new(
        "s3_encryption_customer_key",
        OptionType::Text,
        "Key that the store encrypts with and does not keep: base64 of 32 bytes. Without it nobody can read the objects.",
    )
    .secret(),
];

/// Every option of an S3 sink.
pub(super) static OPTIONS: [OptionSpec; COMMON.len() + CLOUD_OPTIONS.len() + OBJECT_OPTIONS.len() + OWN.len()] =
    join(&[&COMMON, &CLOUD_OPTIONS, &OBJECT_OPTIONS, &OWN]);

/// How the store encrypts what it is given.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Encryption {
    /// As the bucket says.
    AsTheBucketSays,
    /// With a key that the store manages.
    Managed,
    /// With a key of its KMS, once or twice.
    Kms { key: Option<String>, twice: bool },
    /// With a key that comes with each request, base64.
    Customer(Zeroizing<String>),
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AsTheBucketSays => "AsTheBucketSays",
            Self::Managed => "Managed",
            Self::Kms { .. } => "Kms",
            Self::Customer(_) => "Customer",
        })
    }
}

/// A checked S3 destination.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) region: String,
    /// Where the user said; the default host of the region otherwise.
    pub(super) host: Option<Host>,
    pub(super) https: bool,
    pub(super) verify_tls: bool,
    /// Whether the bucket is in the host name, and it can be.
    pub(super) in_host_name: bool,
    pub(super) role: Option<String>,
    pub(super) managed: bool,
    pub(super) encryption: Encryption,
}

impl Place {
    /// Checks destination and options together; every fault at once.
    pub(super) fn check(destination: &Destination, options: &Options) -> Result<Self, Vec<ConfigFault>> {
        let text = |name: &str| options.text(name).map(str::to_owned);
        let (bucket, region) = (text("s3_bucket_name").unwrap_or_default(), text("s3_region").unwrap_or_default());
        let (https, verify_tls, managed) = (options.flag("use_https"), options.flag("s3_verify_ssl"), options.flag("use_managed_credentials"));
        let mut faults = one_scheme(options, &["credential", "use_managed_credentials"]);
        faults.extend(bucket_fault(&bucket));
        faults.extend(name_fault("s3_region", &region, "a region's name, as in eu-central-1", |region| is_plain_name(region, 1, 64, b"-")));
        let role = text("s3_aws_role_arn");
        if let Some(role) = &role {
            faults.extend(name_fault("s3_aws_role_arn", role, "a role's name, as in arn:aws:iam::123456789012:role/name", is_role));
            if options.text("credential").is_none() && !managed {
                faults.push(ConfigFault::option(
                    ConfigFaultKind::MissingOption,
                    "credential",
                    "s3_aws_role_arn needs the keys of somebody who may assume the role; name a credential of type aws_access_key or aws_iam_role",
                ));
            }
        }
        let encryption = Encryption::check(options, https && verify_tls).map_err(|more| faults.extend(more));
        let host = Host::of(destination).map_err(|more| faults.extend(more));
        match (faults.is_empty(), encryption, host) {
            (true, Ok(encryption), Ok(host)) => {
                // A wildcard certificate covers one label, and nothing stands before an address: there the path is the only way.
                let impossible = host.as_ref().is_some_and(Host::is_address) || (https && bucket.contains('.'));
                let in_host_name = !impossible && options.flag("s3_use_virtual_addressing");
                Ok(Self { bucket, region, host, https, verify_tls, in_host_name, role, managed, encryption })
            }
            _ => Err(faults),
        }
    }

    /// The store's host: the user's, or the region's.
    pub(super) fn host(&self) -> Host {
        self.host.clone().unwrap_or_else(|| Host::named(format!("s3.{}.{}", self.region, self.domain())))
    }

    /// Whether the store is Amazon's own.
    pub(super) fn is_amazon(&self) -> bool {
        self.host.as_ref().is_none_or(|host| host.name().ends_with(".amazonaws.com") || host.name().ends_with(".amazonaws.com.cn"))
    }

    /// Amazon's domain in this region.
    pub(super) fn domain(&self) -> &'static str {
        if self.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
    }

    /// Where requests go. With the bucket in the path, the library puts it there.
    pub(super) fn endpoint(&self) -> Result<Endpoint, ConnectorError> {
        let label = self.in_host_name.then_some(self.bucket.as_str());
        let url = self.host().url(self.https, label, None);
        let url =
            url.map_err(|fault| ConnectorError::new(Kind::Misconfigured, format!("the bucket {} and the destination make no host: {fault}", self.bucket)))?;
        Ok(Endpoint { url, verify_tls: self.verify_tls, kind: SinkKind::S3 })
    }
}

impl Encryption {
    fn check(options: &Options, protected: bool) -> Result<Self, Vec<ConfigFault>> {
        let (kind, kms) = (options.text("s3_encryption_type"), options.text("s3_kms_key_id"));
        let (algorithm, key) = (options.text("s3_encryption_customer_algorithm"), options.text("s3_encryption_customer_key"));
        let conflict = |one: &str, other: &str, why: &str| {
            ConfigFault::option(ConfigFaultKind::Conflict, one, format!("option {one:?} cannot be given beside {other:?}: {why}")).with("conflicts_with", other)
        };
        let missing = |one: &str, other: &str| {
            ConfigFault::option(ConfigFaultKind::MissingOption, one, format!("option {other:?} needs {one:?} beside it")).with("needed_by", other)
        };
        let mut faults = Vec::new();
        for (name, value) in [("s3_encryption_type", kind), ("s3_kms_key_id", kms)] {
            if value.is_some() && key.is_some() {
                faults.push(conflict("s3_encryption_customer_key", name, "an object is encrypted by one of them"));
            }
        }
        if kms.is_some() && kind == Some("AES256") {
            faults.push(conflict("s3_kms_key_id", "s3_encryption_type", "AES256 encrypts with a key that the store manages; write aws:kms"));
        }
        match (algorithm, key) {
            (Some(_), None) => faults.push(missing("s3_encryption_customer_key", "s3_encryption_customer_algorithm")),
            (None, Some(_)) => faults.push(missing("s3_encryption_customer_algorithm", "s3_encryption_customer_key")),
            _ => {}
        }
        if let Some(key) = key {
            if STANDARD.decode(key).map(Zeroizing::new).is_ok_and(|bytes| bytes.len() != 32) || STANDARD.decode(key).is_err() {
                faults.push(ConfigFault::option(
                    ConfigFaultKind::InvalidOption,
                    "s3_encryption_customer_key",
                    "the value of option \"s3_encryption_customer_key\" must be base64 of 32 bytes",
                ));
            }
            if !protected {
                faults.push(ConfigFault::option(
                    ConfigFaultKind::Conflict,
                    "s3_encryption_customer_key",
                    "a customer's key travels with every request: it needs use_https=true and s3_verify_ssl=true",
                ));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(match (key, kind, kms) {
            (Some(key), ..) => Self::Customer(Zeroizing::new(key.to_owned())),
            (None, Some("AES256"), _) => Self::Managed,
            (None, Some(kind), kms) => Self::Kms { key: kms.map(str::to_owned), twice: kind == "aws:kms:dsse" },
            (None, None, Some(kms)) => Self::Kms { key: Some(kms.to_owned()), twice: false },
            (None, None, None) => Self::AsTheBucketSays,
        })
    }
}

fn bucket_fault(bucket: &str) -> Option<ConfigFault> {
    if bucket.ends_with("--x-s3") {
        return Some(ConfigFault::option(
            ConfigFaultKind::InvalidOption,
            "s3_bucket_name",
            "directory buckets (S3 Express) are not supported; name a general purpose bucket",
        ));
    }
    let allowed = "3 to 63 lower-case letters, digits, \"-\" and \".\", a letter or digit at both ends, no \"..\", not an address";
    name_fault("s3_bucket_name", bucket, allowed, |name| {
        is_plain_name(name, 3, 63, b"-.") && !name.contains("..") && name.parse::<std::net::Ipv4Addr>().is_err()
    })
}

fn is_role(role: &str) -> bool {
    let parts: Vec<&str> = role.splitn(6, ':').collect();
    matches!(parts[..], ["arn", _, _, _, _, _]) && (20..=2048).contains(&role.len()) && role.bytes().all(|byte| byte.is_ascii_graphic())
}
