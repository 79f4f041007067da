//! Why: what the kinds of object store share: records become objects that appear whole, each named by its first offset and created only if absent. Never knows which cloud it is.

mod bucket;
mod endpoint;
mod errors;
mod http;
mod probe;
mod sink;
mod token;
#[cfg_attr(not(test), expect(dead_code, reason = "the engine that writes through it comes next"))]
mod format;
#[cfg_attr(not(test), expect(dead_code, reason = "the engine that writes through it comes next"))]
mod path;

use super::options::{OptionSpec, OptionType};

pub(in crate::connectors) use self::{
    bucket::{Bucket, BucketSource},
    endpoint::{Endpoint, Host, is_plain_name, name_fault, one_scheme},
    http::{COMPLETION_HEADERS, Gate, Manners, Signing, no_retries},
    sink::connector,
    token::{Issued, Renewing, TokenService, TokenSource, life_until, managed, named_file, pair, refused, secret_text},
};

/// Options that the object stores of the clouds share.
pub(in crate::connectors) const CLOUD_OPTIONS: [OptionSpec; 2] = [
    OptionSpec::new("use_managed_credentials", OptionType::Bool, "Use the identity that the cloud gives to this host, where the operator allows it.")
        .or("false"),
    OptionSpec::new("use_https", OptionType::Bool, "Whether to connect with TLS; without it, tokens and signatures that travel go to loopback only.")
        .or("true"),
];
