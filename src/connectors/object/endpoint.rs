//! Why: where a bucket's requests go is parsed once, purely, and is what the check and the requests both use. Never connects.

use url::{Host as UrlHost, Url};

use crate::connectors::{
    connector::SinkKind,
    destination::Destination,
    egress::check_host_ever,
    options::{ConfigFault, ConfigFaultKind, Options},
};

/// Where a bucket's requests go.
#[derive(Debug, Clone)]
pub(in crate::connectors) struct Endpoint {
    /// Scheme, host and port; a path only where the store is addressed by one.
    pub(in crate::connectors) url: Url,
    /// Whether the certificate is verified.
    pub(in crate::connectors) verify_tls: bool,
    /// The kind of sink it belongs to.
    pub(in crate::connectors) kind: SinkKind,
}

impl Endpoint {
    /// The port that every request goes to.
    pub(in crate::connectors) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(0)
    }

    /// The URL as the library wants it: without a slash at its end.
    pub(in crate::connectors) fn as_base(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }
}

/// The host of a destination such as `s3://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::connectors) struct Host {
    name: String,
    port: Option<u16>,
    is_address: bool,
}

impl Host {
    /// The host that a destination names; `None` where it is the bare word of its kind, and the default host is meant. Every fault at once.
    pub(in crate::connectors) fn of(destination: &Destination) -> Result<Option<Self>, Vec<ConfigFault>> {
        let (scheme, rest) = (destination.scheme(), destination.rest());
        if rest.is_empty() {
            return Ok(None);
        }
        let mut faults = Vec::new();
        if destination.secret().is_some() {
            faults.push(ConfigFault::destination(
                "the destination must not hold a user or password; put them into a credential and name it in the option \"credential\"",
            ));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if authority.contains(['/', '\\', '?', '#', '%']) {
            faults.push(ConfigFault::destination(format!(
                "the destination must be written {scheme} or {scheme}://HOST[:PORT]; the bucket and the names of objects belong into options"
            )));
            return Err(faults);
        }
        // Parsed as a URL's, so that what is checked is what is connected to, in whatever spelling.
        match Url::parse(&format!("https://{authority}/")) {
            Ok(url) if url.port() == Some(0) => faults.push(ConfigFault::destination("the destination's port must not be 0")),
            Ok(url) => match url.host() {
                Some(host) => {
                    if let Err(blocked) = check_host_ever(&host) {
                        faults.push(ConfigFault::destination(blocked.to_string()));
                    }
                    if faults.is_empty() {
                        // `https` hides its own port.
                        let port = url.port().or_else(|| authority.ends_with(":443").then_some(443));
                        return Ok(Some(Self { name: host.to_string(), port, is_address: !matches!(host, UrlHost::Domain(_)) }));
                    }
                }
                None => faults.push(ConfigFault::destination(format!("the destination has no host; write {scheme}://HOST[:PORT]"))),
            },
            Err(fault) => faults.push(ConfigFault::destination(format!("the destination {scheme}://HOST[:PORT] has a host or port that is none: {fault}"))),
        }
        Err(faults)
    }

    /// A host that is known to be one.
    pub(in crate::connectors) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), port: None, is_address: false }
    }

    /// Its name or address.
    pub(in crate::connectors) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is an address: nothing can be put before it then.
    pub(in crate::connectors) fn is_address(&self) -> bool {
        self.is_address
    }

    /// The URL of this host, with `label` before it and `segment` as its path, where given.
    pub(in crate::connectors) fn url(&self, https: bool, label: Option<&str>, segment: Option<&str>) -> Result<Url, url::ParseError> {
        let scheme = if https { "https" } else { "http" };
        let label = label.map(|label| format!("{label}.")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        Url::parse(&format!("{scheme}://{label}{}{port}/{}", self.name, segment.unwrap_or_default()))
    }
}

/// A fault of a name that is not shaped as the stores want it, where it is not.
pub(in crate::connectors) fn name_fault(option: &str, value: &str, allowed: &str, fits: impl Fn(&str) -> bool) -> Option<ConfigFault> {
    if fits(value) {
        return None;
    }
    let shown: String = value.chars().take(100).collect();
    Some(
        ConfigFault::option(ConfigFaultKind::InvalidOption, option, format!("{shown:?} is not allowed for option {option:?}; allowed: {allowed}"))
            .with("allowed", allowed),
    )
}

/// Whether `text` has between `min` and `max` bytes, each a lower-case letter, a digit or one of `others`, and begins and ends with a letter or digit.
pub(in crate::connectors) fn is_plain_name(text: &str, min: usize, max: usize, others: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (min..=max).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(byte) || others.contains(byte))
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

/// Faults of the ways to authenticate that are `given` together: at most one can hold.
pub(in crate::connectors) fn one_scheme(options: &Options, ways: &[&'static str]) -> Vec<ConfigFault> {
    let given: Vec<&str> =
        ways.iter().copied().filter(|way| options.text(way).is_some_and(|value| *way != "use_managed_credentials" || value == "true")).collect();
    let conflict = |pair: &[&'_ str]| {
        let (one, other) = (pair[0].to_owned(), pair[1].to_owned());
        ConfigFault::option(
            ConfigFaultKind::Conflict,
            &one,
            format!("option {one:?} cannot be given beside {other:?}: each is a way to authenticate; leave one of them out"),
        )
        .with("conflicts_with", other)
    };
    given.windows(2).map(conflict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<Option<Host>, Vec<ConfigFault>> {
        Host::of(&Destination::parse(text).expect("a destination"))
    }

    #[test]
    fn hosts_are_read_once() {
        assert_eq!(host("s3").expect("a default"), None);
        assert_eq!(host("S3://").expect("a default"), None);
        let url =
            |text: &str, https, label, segment| host(text).expect("a host").expect("not the default").url(https, label, segment).expect("a URL").to_string();
        assert_eq!(url("s3://minio:9000", false, None, None), "http://minio:9000/");
        assert_eq!(url("s3://Minio.Example/", true, Some("b"), None), "https://b.minio.example/");
        assert_eq!(url("s3://minio:443", false, None, None), "http://minio:443/");
        assert_eq!(url("azure://127.1:10000", false, None, Some("acct")), "http://127.0.0.1:10000/acct");
        assert_eq!(url("s3://[::1]:9000", true, None, Some("b")), "https://[::1]:9000/b");
        assert!(host("s3://0x7f000001").expect("a host").expect("not the default").is_address());
    }

    #[test]
    fn what_is_no_host_is_a_fault() {
        for bad in [
            "s3://bucket/prefix",
            "s3://host//",
            "s3://host?x=y",
            "s3://host#x",
            "s3://user:password@host",
            "s3://host:0",
            "s3://host:99999",
            "s3://host:port",
            "s3://169.254.169.254",
            "s3://2852039166",
            "s3://[::ffff:169.254.169.254]",
            "s3://[fd00:ec2::254]:80",
            "s3://0.0.0.0",
            "s3://a%2eb",
            "s3:///",
            "s3://host\\@evil",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
