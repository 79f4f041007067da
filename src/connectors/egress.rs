//! Why: every outbound connection of every kind passes one address filter. Never follows a redirect, and never connects to an address it has not checked itself.

mod address;
mod http_client;
mod http_connection;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ipnet::IpNet;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

pub use self::{
    address::AddressClass,
    http_client::{ExchangeError, HttpClient, HttpOptions, ReplyBody, Stage, find, read_bounded, retry_after},
    http_connection::HttpConnection,
};
use super::{
    connector::SinkKind,
    error::{ConnectorError, ConnectorErrorKind},
};

/// What the filter allows beyond its defaults.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    /// Networks that every kind may reach although they are private or reserved. Link-local, metadata, multicast and unspecified addresses stay refused.
    pub allow: Vec<IpNet>,
    /// Networks that no kind may reach; stronger than `allow`.
    pub deny: Vec<IpNet>,
    /// Whether every kind may reach private addresses, also those whose destinations normally live elsewhere.
    pub private_allowed: bool,
    /// Where this service itself listens: never a destination. An unspecified address stands for loopback.
    pub own_listeners: Vec<SocketAddr>,
    /// What clouds tell this process about themselves.
    pub cloud: Cloud,
}

/// What clouds tell this process about themselves: the operator's word, as much as a setting is. Users have no say in it.
#[derive(Clone, Default)]
pub struct Cloud {
    /// Whether sinks may use the identity that the cloud gives to this host: whoever may create a sink then acts with it.
    pub managed_credentials: bool,
    /// Variables of the environment that say where identities are found, those of [`CLOUD_VARIABLES`].
    pub variables: BTreeMap<String, String>,
}

/// The variables that the clouds' own libraries read to find identities and the services that hand them out.
pub const CLOUD_VARIABLES: [&str; 19] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "AZURE_AUTHORITY_HOST",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "GCE_METADATA_HOST",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

impl fmt::Debug for Cloud {
    /// Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&String> = self.variables.keys().collect();
        f.debug_struct("Cloud").field("managed_credentials", &self.managed_credentials).field("variables", &variables).finish()
    }
}

impl Cloud {
    /// The value of a variable, where it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Why the filter refuses an address. Names no address that was not in the request: what a name resolves to inside is nobody's affair outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Never reachable, whatever is configured.
    #[error("{0} addresses are never a destination")]
    Never(AddressClass),
    /// Not reachable unless configured.
    #[error("{1} sinks may not reach {0} addresses; an operator can allow the network in the egress settings")]
    ByDefault(AddressClass, SinkKind),
    /// On the operator's deny list.
    #[error("the egress settings deny this address")]
    Denied,
    /// One of this service's own listeners.
    #[error("it is one of this service's own listeners")]
    OwnListener,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each is")]
pub enum EgressError {
    #[error("the egress filter refuses {host}: {blocked}")]
    Blocked { host: String, blocked: Blocked },
    #[error("{host:?} is not a host name or an address")]
    NotAHost { host: String },
    #[error("the name {host} does not resolve: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} is not a loopback address, and without TLS a credential may go to no other; use https://")]
    NotLoopback { host: String },
    #[error("{host} is not where a cloud's metadata service is")]
    NotMetadata { host: String },
    #[error("no connection to {host} port {port}: {source}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("no connection to {host} port {port} within {} seconds", limit.as_secs_f32())]
    TimedOut { host: String, port: u16, limit: Duration },
    #[error("TLS with {host} failed: {source}")]
    Tls { host: String, source: io::Error },
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

impl EgressError {
    /// What a connector calls it.
    pub fn kind(&self) -> ConnectorErrorKind {
        use ConnectorErrorKind as K;
        match self {
            Self::Blocked { .. } | Self::NotMetadata { .. } => K::BlockedAddress,
            Self::NotAHost { .. } | Self::NotLoopback { .. } => K::Misconfigured,
            Self::Resolve { .. } | Self::Connect { .. } => K::Unreachable,
            Self::TimedOut { .. } => K::TimedOut,
            Self::Tls { source, .. } if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => K::Tls,
            // The peer went away during the handshake: passing, unlike a certificate that does not fit.
            Self::Tls { .. } => K::Unreachable,
            Self::Client(_) => K::Internal,
        }
    }
}

impl From<EgressError> for ConnectorError {
    fn from(fault: EgressError) -> Self {
        Self::new(fault.kind(), fault.to_string())
    }
}

/// Names to addresses; the operating system's resolver, or a test's.
#[async_trait]
pub trait Resolver: Send + Sync + fmt::Debug {
    /// Every address of `host`, best first.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// The address filter, and whatever connects through it.
#[derive(Debug)]
pub struct Egress {
    policy: EgressPolicy,
    resolver: Arc<dyn Resolver>,
    tls: Arc<ClientConfig>,
}

impl Egress {
    /// A filter with the operating system's resolver, which trusts the platform's certificate authorities and those in `extra_roots_pem`.
    pub fn new(policy: EgressPolicy, extra_roots_pem: &[u8]) -> Result<Self, EgressError> {
        Self::with_resolver(policy, extra_roots_pem, Arc::new(SystemResolver))
    }

    /// As [`Egress::new`], with another resolver.
    pub fn with_resolver(policy: EgressPolicy, extra_roots_pem: &[u8], resolver: Arc<dyn Resolver>) -> Result<Self, EgressError> {
        Ok(Self { policy, resolver, tls: Arc::new(tls_config(extra_roots_pem)?) })
    }

    /// What clouds tell this process about themselves.
    pub fn cloud(&self) -> &Cloud {
        &self.policy.cloud
    }

    /// The addresses of `host`, not filtered: for the metadata client, which has a list of its own.
    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, EgressError> {
        self.resolver.lookup(host).await.map_err(|source| EgressError::Resolve { host: host.to_owned(), source })
    }

    /// The TLS settings of every kind: TLS 1.2 or newer, certificates and host names always verified. No ALPN.
    pub fn tls_config(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// Whether sinks of `kind` may connect to `address`.
    pub fn check(&self, address: IpAddr, kind: SinkKind) -> Result<(), Blocked> {
        let address = address::canonical(address);
        let listed = |nets: &[IpNet]| nets.iter().any(|net| address::net_contains(net, address));
        check_never(address)?;
        let class = AddressClass::of(address);
        if listed(&self.policy.deny) {
            return Err(Blocked::Denied);
        }
        let allowed = match class {
            AddressClass::Public => true,
            AddressClass::Loopback | AddressClass::Private => self.policy.private_allowed || kind.lives_in_private(),
            _ => false,
        };
        if !allowed && !listed(&self.policy.allow) {
            return Err(Blocked::ByDefault(class, kind));
        }
        // Who allows a translator's network has not allowed whatever lies behind it.
        match address::embedded(address)[..] {
            [carried] => self.check(IpAddr::V4(carried), kind),
            _ => Ok(()),
        }
    }

    /// As [`Egress::check`], and not one of our own listeners.
    pub fn check_socket(&self, socket: SocketAddr, kind: SinkKind) -> Result<(), Blocked> {
        let address = address::canonical(socket.ip());
        let own = self.policy.own_listeners.iter().any(|own| {
            let listener = address::canonical(own.ip());
            own.port() == socket.port() && (listener == address || (listener.is_unspecified() && address.is_loopback()))
        });
        if own { Err(Blocked::OwnListener) } else { self.check(address, kind) }
    }

    /// The check that needs no network: a host that is an address, in whatever spelling, must be allowed; a name passes, and is checked once it is resolved.
    pub fn check_host(&self, host: &Host<&str>, port: u16, kind: SinkKind) -> Result<(), EgressError> {
        match literal(host) {
            Some(address) => {
                self.check_socket(SocketAddr::new(address, port), kind).map_err(|blocked| EgressError::Blocked { host: host.to_string(), blocked })
            }
            None => Ok(()),
        }
    }

    /// The addresses of `host` that sinks of `kind` may connect to, best first and never none. Connect to these, not to the name: it may mean something else a moment later.
    pub async fn resolve(&self, host: &str, port: u16, kind: SinkKind) -> Result<Vec<SocketAddr>, EgressError> {
        // An IPv6 address comes with or without its brackets; every other spelling of an address is what a URL makes of it.
        let bare = host.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6).map(|address| format!("[{address}]"));
        let parsed = Host::parse(bare.as_deref().unwrap_or(host)).map_err(|_| EgressError::NotAHost { host: host.chars().take(255).collect() })?;
        match &parsed {
            Host::Domain(name) => self.resolve_name(name, port, kind).await,
            Host::Ipv4(address) => self.only(host, SocketAddr::new(IpAddr::V4(*address), port), kind),
            Host::Ipv6(address) => self.only(host, SocketAddr::new(IpAddr::V6(*address), port), kind),
        }
    }

    fn only(&self, host: &str, socket: SocketAddr, kind: SinkKind) -> Result<Vec<SocketAddr>, EgressError> {
        self.check_socket(socket, kind).map_err(|blocked| EgressError::Blocked { host: host.to_owned(), blocked })?;
        Ok(vec![socket])
    }

    async fn resolve_name(&self, name: &str, port: u16, kind: SinkKind) -> Result<Vec<SocketAddr>, EgressError> {
        let found = self.resolver.lookup(name).await.map_err(|source| EgressError::Resolve { host: name.to_owned(), source })?;
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in found {
            let socket = SocketAddr::new(address::canonical(address), port);
            match self.check_socket(socket, kind) {
                Ok(()) => allowed.push(socket),
                Err(blocked) => refused = Some(blocked),
            }
        }
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, Some(blocked)) => Err(EgressError::Blocked { host: name.to_owned(), blocked }),
            (true, None) => Err(EgressError::Resolve { host: name.to_owned(), source: io::Error::new(io::ErrorKind::NotFound, "it has no address") }),
        }
    }

    /// A TCP connection to one of `addresses`, which [`Egress::resolve`] gave for `host`, tried in order within `limit`.
    pub async fn connect(&self, host: &str, addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, EgressError> {
        let port = addresses.first().map_or(0, SocketAddr::port);
        let attempt = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                    Err(fault) => last = fault,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(EgressError::Connect { host: host.to_owned(), port, source }),
            Err(_) => Err(EgressError::TimedOut { host: host.to_owned(), port, limit }),
        }
    }

    /// TLS over `stream`, verified for `host`, within `limit`.
    pub async fn handshake(&self, host: &str, stream: TcpStream, limit: Duration) -> Result<TlsStream<TcpStream>, EgressError> {
        let port = stream.peer_addr().map_or(0, |peer| peer.port());
        let server = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| EgressError::NotAHost { host: host.to_owned() })?;
        match tokio::time::timeout(limit, TlsConnector::from(self.tls.clone()).connect(server, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(EgressError::Tls { host: host.to_owned(), source }),
            Err(_) => Err(EgressError::TimedOut { host: host.to_owned(), port, limit }),
        }
    }
}

/// The part of the check that no setting changes: link-local, metadata, multicast and unspecified addresses, also where a translator would come out at one.
fn check_never(address: IpAddr) -> Result<(), Blocked> {
    let carried = address::embedded(address).into_iter().map(|carried| AddressClass::of(IpAddr::V4(carried)));
    let carried = carried.filter(|class| matches!(class, AddressClass::LinkLocal | AddressClass::Metadata));
    match carried.chain([AddressClass::of(address)]).find(|class| class.is_never()) {
        Some(class) => Err(Blocked::Never(class)),
        None => Ok(()),
    }
}

/// The part of [`Egress::check_host`] that needs no settings: a host that is an address which is never a destination.
pub fn check_host_ever(host: &Host<&str>) -> Result<(), EgressError> {
    match literal(host) {
        Some(address) => check_never(address::canonical(address)).map_err(|blocked| EgressError::Blocked { host: host.to_string(), blocked }),
        None => Ok(()),
    }
}

/// The address that a parsed host is, unless it is a name.
fn literal(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(address) => Some(IpAddr::V4(*address)),
        Host::Ipv6(address) => Some(IpAddr::V6(*address)),
        Host::Domain(_) => None,
    }
}

fn tls_config(extra_roots_pem: &[u8]) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    let platform = rustls_native_certs::load_native_certs();
    for fault in &platform.errors {
        tracing::warn!(%fault, "some of the platform's certificate authorities cannot be read");
    }
    // One bad certificate in the platform's store is no reason to trust none of the others.
    roots.add_parsable_certificates(platform.certs);
    for certificate in CertificateDer::pem_slice_iter(extra_roots_pem) {
        let added = certificate.map_err(|fault| fault.to_string()).and_then(|certificate| roots.add(certificate).map_err(|fault| fault.to_string()));
        added.map_err(|fault| EgressError::Client(format!("an extra certificate authority in the settings cannot be used: {fault}")))?;
    }
    // The provider is named, so that nothing depends on which one a process-wide default happens to be.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| EgressError::Client(fault.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
