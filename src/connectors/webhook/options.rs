//! Why: what may be said about a webhook sink, and what a checked one is. Never reads a credential and never connects.

use url::{Host, Url};

use crate::connectors::{
    destination::Destination,
    egress,
    messages::{Cut, JSON_FORMAT, JsonFormat, MAX_MESSAGE_SIZE},
    options::{COMMON, ConfigFault, OptionSpec, OptionType},
};

/// The most records of one unit, and so of one request.
const BATCH_RECORDS_MAX: i64 = 10_000;

/// Every option of a webhook sink.
pub(super) static OPTIONS: [OptionSpec; 8] = [
    COMMON[0],
    COMMON[1],
    COMMON[2],
    COMMON[3],
    COMMON[4],
    OptionSpec::new(
        "max_batch_size",
        OptionType::Int { min: 1, max: BATCH_RECORDS_MAX },
        "Most records settled together: in one request if nested, in as many requests, one after another, if flat.",
    )
    .or("1")
    .per_stream(),
    MAX_MESSAGE_SIZE,
    JSON_FORMAT,
];

/// The most bytes of a unit as the session counts them, a newline after each record, so that a nested unit is one body.
pub(super) fn unit_bytes_max(cut: Cut) -> u64 {
    match cut.format {
        JsonFormat::Flat => cut.message_bytes_max + 1,
        JsonFormat::Nested => cut.message_bytes_max.saturating_sub(1),
    }
}

/// The URL of a destination, parsed once: what is checked is what is connected to. Every fault at once.
pub(super) fn url(destination: &Destination) -> Result<Url, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    if destination.secret().is_some() {
        faults.push(ConfigFault::destination(
            "the destination must not hold a user or password; put them into a credential of type rest and name it in the option \"credential\"",
        ));
    }
    // Browsers read a backslash as a slash and skip extra slashes; then the host is not the one that a person reads.
    if destination.rest().contains('\\') || destination.rest().starts_with('/') {
        faults.push(ConfigFault::destination("the destination must be written https://host[:port][/path], without backslashes or extra slashes"));
    }
    if destination.rest().contains('#') {
        faults.push(ConfigFault::destination("the destination must not have a fragment (\"#…\"): it is never sent"));
    }
    match Url::parse(destination.redacted()) {
        Err(fault) => faults.push(ConfigFault::destination(format!("the destination is not a URL: {fault}"))),
        Ok(url) => match host_fault(&url) {
            Some(fault) => faults.push(fault),
            None if faults.is_empty() => return Ok(url),
            None => {}
        },
    }
    Err(faults)
}

fn host_fault(url: &Url) -> Option<ConfigFault> {
    let Some(host) = url.host() else { return Some(ConfigFault::destination("the destination has no host; write https://host/path")) };
    if url.port() == Some(0) {
        return Some(ConfigFault::destination("the destination's port must not be 0"));
    }
    egress::check_host_ever(&host).err().map(|blocked| ConfigFault::destination(blocked.to_string()))
}

/// Whether a parsed host can only be this machine.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.to_canonical().is_loopback(),
        Host::Domain(_) => false,
    }
}
