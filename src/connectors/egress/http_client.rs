//! Why: the one place an HTTP client is made, so that none resolves, redirects, proxies or retries by itself. Never hands out the client inside.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Method, RequestBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::{Egress, EgressError, literal};
use crate::connectors::connector::SinkKind;

/// What a client is for.
#[derive(Debug, Clone, Copy)]
pub struct HttpOptions {
    /// The kind of sink that it serves.
    pub kind: SinkKind,
    /// The port that every request goes to.
    pub port: u16,
    /// Limit for establishing a connection, TLS included.
    pub connect_timeout: Duration,
    /// Limit for a whole exchange, connecting included.
    pub exchange_timeout: Duration,
    /// Whether only loopback addresses will do, whatever else the filter allows: for requests that carry a credential without TLS.
    pub loopback_only: bool,
}

/// An HTTP client behind the address filter: HTTP/1.1 or 2, keep-alive, no redirects, no proxy, no retries, no cookies, no decompression.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    egress: Arc<Egress>,
    options: HttpOptions,
}

impl HttpClient {
    /// A client of `egress`.
    pub fn new(egress: &Arc<Egress>, options: HttpOptions) -> Result<Self, EgressError> {
        let mut tls = egress.tls_config().as_ref().clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(FilteringResolver { egress: egress.clone(), options })
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .timeout(options.exchange_timeout)
            .user_agent(concat!("datasink/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|fault| EgressError::Client(fault.without_url().to_string()))?;
        Ok(Self { client, egress: egress.clone(), options })
    }

    /// A request to `url`. A host that is an address is checked here, each time: nothing asks a resolver about it.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, EgressError> {
        let host = url.host().ok_or_else(|| EgressError::NotAHost { host: String::new() })?;
        let port = url.port_or_known_default().unwrap_or(0);
        if port != self.options.port {
            return Err(EgressError::Client(format!("it is for port {} and the request for port {port}", self.options.port)));
        }
        self.egress.check_host(&host, port, self.options.kind)?;
        if self.options.loopback_only && literal(&host).is_some_and(|address| !address.to_canonical().is_loopback()) {
            return Err(EgressError::NotLoopback { host: host.to_string() });
        }
        Ok(self.client.request(method, url.clone()))
    }
}

/// Gives a new connection the addresses that the filter let through, and no others; asked once for each connection.
struct FilteringResolver {
    egress: Arc<Egress>,
    options: HttpOptions,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, options) = (self.egress.clone(), self.options);
        Box::pin(async move {
            let mut addresses = egress.resolve(name.as_str(), options.port, options.kind).await?;
            if options.loopback_only {
                addresses.retain(|address| address.ip().is_loopback());
                if addresses.is_empty() {
                    return Err(EgressError::NotLoopback { host: name.as_str().to_owned() }.into());
                }
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
