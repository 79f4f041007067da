//! Why: how a command reaches a server and how it tells a failure. Never retries by itself.

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt;

use crate::limits;

/// Which server, and who is calling.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// Address of the server: http://HOST:PORT, https://HOST:PORT or unix:///PATH.
    #[arg(long, env = "DATASINK_ADDRESS", default_value = "http://127.0.0.1:50051")]
    pub address: String,
    /// File that holds an access token; the first start of a server writes one for its admin.
    #[arg(long, env = "DATASINK_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the certificate authority of an https:// server, where it is not one the system knows.
    #[arg(long, env = "DATASINK_CA_FILE")]
    pub ca_file: Option<PathBuf>,
}

/// A connection that sends the caller's token with every call.
pub type Connection = InterceptedService<Channel, Token>;

/// Puts the token into every call.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Server {
    /// Connects once.
    pub async fn connect(&self) -> Result<Connection, CliError> {
        let wrong = || CliError::Usage(format!("{:?} is not an address of a server; write http://HOST:PORT, https://HOST:PORT or unix:///PATH", self.address));
        if !["http://", "https://", "unix:"].iter().any(|scheme| self.address.starts_with(scheme)) {
            return Err(wrong());
        }
        let mut endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(|_| wrong())?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .tcp_nodelay(true);
        if self.address.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|fault| CliError::Usage(format!("TLS cannot be set up: {fault}")))?;
        }
        let channel = endpoint.connect().await.map_err(|fault| CliError::Unreachable(format!("no server answers at {}: {}", self.address, root(&fault))))?;
        Ok(InterceptedService::new(channel, Token(self.token()?)))
    }

    fn tls(&self) -> Result<ClientTlsConfig, CliError> {
        let config = ClientTlsConfig::new().with_native_roots();
        match &self.ca_file {
            None => Ok(config),
            Some(path) => Ok(config.ca_certificate(Certificate::from_pem(read(path)?))),
        }
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>, CliError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = String::from_utf8(read(path)?).map_err(|_| CliError::Usage(format!("{} does not hold an access token", path.display())))?;
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", text.trim()).parse().map_err(|_| CliError::Usage(format!("{} does not hold an access token", path.display())))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|fault| CliError::Usage(format!("cannot read {}: {fault}", path.display())))
}

/// The innermost cause, which is the one that helps.
fn root(fault: &dyn std::error::Error) -> String {
    let mut cause = fault;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum CliError {
    /// The command line, a file or a token is wrong.
    Usage(String),
    /// The server answers, and takes no work now.
    NotServing(String),
    /// No server.
    Unreachable(String),
    /// The server refused, and the same again would be refused again.
    Refused(Box<Status>),
    /// Something local failed on the way.
    Local(String),
}

impl CliError {
    /// 1 not serving, 64 usage, 69 no server, 65 refused, 74 local input or output.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NotServing(_) => 1,
            Self::Usage(_) => 64,
            Self::Unreachable(_) => 69,
            Self::Refused(_) => 65,
            Self::Local(_) => 74,
        })
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServing(text) | Self::Usage(text) | Self::Unreachable(text) | Self::Local(text) => f.write_str(text),
            Self::Refused(status) => {
                write!(f, "{}", status.message())?;
                let details = status.get_error_details();
                for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations).take(limits::RECORD_ERRORS_PER_FRAME_MAX) {
                    write!(f, "\n  {}: {}", violation.field, violation.description)?;
                }
                match details.error_info() {
                    Some(info) => write!(f, "\n  ({})", info.reason),
                    None => write!(f, "\n  ({:?})", status.code()),
                }
            }
        }
    }
}

impl std::error::Error for CliError {}

/// Whether a stream that failed with `status` can be opened again, and how long to wait first: the one rule of all clients.
pub fn reopen_after(status: &Status, attempt: u32) -> Option<Duration> {
    let details = status.get_error_details();
    if details.error_info().is_some() {
        return details.retry_info().map(|info| info.retry_delay.unwrap_or(Duration::from_millis(200)));
    }
    // Made by a proxy or the transport: the stream is lost, not refused.
    Some(backoff(attempt))
}

/// 0.2 s doubled up to 10 s.
pub fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(200).saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(10))
}
