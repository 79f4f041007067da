//! Why: the composition root: the one file that knows every room and puts a server together, starts it and stops it. Never holds a rule of any room.
//!
//! Exit codes of `datasink serve`, `store` and `audit`: 0 clean · 64 usage or settings · 65 store corrupt, or a verification found faults · 69 cannot listen · 70 a bug ·
//! 74 store, key ring or audit log unavailable.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::{
    body::Body,
    transport::{Server, server::TcpIncoming},
};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};

use crate::{
    api::{
        self, Edge, PushTimes,
        deadline::DeadlineLayer,
        health::Health,
        layers::{self, RetellLayer, TraceLayer},
        listener::{ListenAddress, Listener},
        tls::Tls,
    },
    clock::{Ambient, Ids},
    config::Settings,
    connectors::{
        Kinds,
        connector::Kind,
        egress::{CLOUD_VARIABLES, Cloud, Egress, EgressPolicy},
        local::Local,
    },
    delivery::{Delivery, DeliverySettings, Directive, DrainReason, LiveSession, Which},
    domain::{self, Domain, DomainParts, KeptProgress, PasswordCost, Sessions, Tables},
    problem::{Problem, Reason},
    secret::Secret,
    shutdown::{Lifecycle, Phase},
    store::sled::{SledOptions, SledStore},
    store::{SharedStore, StoreError, disk, guard::Guard, rows::Rows},
    telemetry,
    vault::{KeyRing, KeySource, Vault},
};

/// The environment variable that may hold the key ring instead of a file. The process cannot remove it from its own environment safely (other threads may read it), so
/// it stays readable to whoever can read `/proc/<pid>/environ`: our own user and root. A file is better; processes that we start get an environment without it.
pub const MASTER_KEY: &str = "DATASINK_MASTER_KEY";
/// How long connections get to end once the listener is closed.
const STOP_MAX: Duration = Duration::from_secs(4);
/// How long the last notes get to reach the disk.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// How often the store's health and the certificate's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a server that is open to strangers says so.
const WARN_EVERY: Duration = Duration::from_secs(3_600);

/// Why a server did not start, or a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The settings cannot be.
    #[error("{0}")]
    Settings(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {fault}; stop what listens there or choose another address")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        fault: io::Error,
    },
    /// The data folder, store, key ring or audit log cannot be used now.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored is not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// A bug.
    #[error("{0}")]
    Internal(String),
}

impl AppError {
    /// The process's exit code for it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) => 64,
            Self::Corrupt(_) => 65,
            Self::Listen { .. } => 69,
            Self::Internal(_) => 70,
            Self::Unavailable(_) => 74,
        })
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::Corrupt(_) => Self::Corrupt(error.to_string()),
            StoreError::Conflict(_) | StoreError::TooLarge(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<Problem> for AppError {
    fn from(problem: Problem) -> Self {
        match problem.reason {
            Reason::StoreCorrupt => Self::Corrupt(problem.message),
            Reason::Internal => Self::Internal(problem.message),
            _ => Self::Unavailable(problem.message),
        }
    }
}

/// What a test puts in the place of the real thing.
#[derive(Debug)]
pub struct Parts {
    /// Clock and ids.
    pub ambient: Ambient,
    /// Another store than the embedded one in the data folder.
    pub store: Option<SharedStore>,
    /// Kinds in the place of those of the same name.
    pub kinds: Vec<Arc<dyn Kind>>,
    /// What checking a password costs.
    pub passwords: PasswordCost,
}

impl Default for Parts {
    fn default() -> Self {
        Self { ambient: Ambient::system(), store: None, kinds: Vec::new(), passwords: PasswordCost::default() }
    }
}

/// Puts servers together.
#[derive(Debug)]
pub struct App;

/// A server that answers calls. Dropping it stops it without grace; [`Running::stop`] is the kind way.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, as `--listen` would say it.
    pub address: String,
    /// Where Prometheus scrapes.
    pub metrics_address: Option<SocketAddr>,
    /// The file with the first admin's token, where there is one.
    pub admin_token_file: Option<PathBuf>,
    /// The catalogue.
    pub domain: Domain,
    /// The engine of Push.
    pub delivery: Delivery,
    /// Whether it serves, drains or stops.
    pub lifecycle: Lifecycle,
    store: SharedStore,
    progress: Arc<KeptProgress>,
    drain_grace: Duration,
    drain_delay: Duration,
    server: Owned<Result<(), tonic::transport::Error>>,
    _watchers: Vec<Owned<()>>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Owned<T>(JoinHandle<T>);

impl<T: Send + 'static> Owned<T> {
    #[expect(clippy::disallowed_methods, reason = "the composition root owns the server's tasks and aborts them when it is dropped")]
    fn spawn(task: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The engine as the catalogue sees it.
#[derive(Debug)]
struct Open(Delivery);

impl Sessions for Open {
    fn direct(&self, which: &Which, directive: Directive) -> usize {
        self.0.direct(which, directive)
    }

    fn live(&self) -> Vec<LiveSession> {
        self.0.live()
    }
}

/// The catalogue, the engine, and what lies under both.
struct House {
    domain: Domain,
    delivery: Delivery,
    store: SharedStore,
    /// The same store, as it is shut when the disk is nearly full.
    guard: Guard,
    progress: Arc<KeptProgress>,
}

impl App {
    /// Binds, opens the store, and answers calls. `settings` have been checked.
    pub async fn start(settings: Settings, parts: Parts) -> Result<Running, AppError> {
        let tls = settings.tls().map_err(AppError::Settings)?.map(Tls::load).transpose();
        let tls = tls.map_err(|fault| AppError::Settings(fault.to_string()))?.map(Arc::new);
        let asked = settings.listen_address().map_err(AppError::Settings)?;
        let listener = Listener::bind(&asked).await.map_err(|fault| AppError::Listen { address: settings.listen.clone(), fault })?;
        let metrics = bind_metrics(&settings.metrics_listen).await?;
        let metrics_address = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
        let address = listener.address();
        let own = address.parse().ok().into_iter().chain(metrics_address).collect();
        let ambient = parts.ambient.clone();
        let House { domain, delivery, store, guard, progress } = house(&settings, parts, own).await?;
        let admin_token_file = admin_token(&domain, &settings).await?;
        let lifecycle = Lifecycle::default();
        let edge = Arc::new(Edge {
            domain: domain.clone(),
            delivery: delivery.clone(),
            ambient: ambient.clone(),
            lifecycle: lifecycle.clone(),
            trusted_proxies: settings.trusted().map_err(AppError::Settings)?,
            warnings: warnings(&settings, &asked, tls.is_some()),
            push: PushTimes {
                first_frame: settings.first_frame_timeout,
                heartbeat: settings.heartbeat_interval,
                session_age: settings.session_age,
                drain_grace: settings.drain_grace,
            },
            readers: TaskTracker::new(),
        });
        let (health, health_service) = Health::new();
        health.announce(true).await;
        let mut watchers = vec![Owned::spawn(watch_health(health, lifecycle.clone(), store.clone())), Owned::spawn(warn_hourly(edge.warnings.clone()))];
        watchers.push(Owned::spawn(forget_old(domain.clone())));
        if settings.disk_free_bytes_min > 0 {
            watchers.push(Owned::spawn(watch_disk(guard, settings.data_dir.clone(), settings.disk_free_bytes_min)));
        }
        watchers.extend(tls.clone().map(|tls| Owned::spawn(watch_certificate(tls))));
        watchers.extend(metrics.map(|listener| Owned::spawn(serve_metrics(listener))));
        let incoming = listener.incoming(tls, Arc::new(Semaphore::new(settings.connections_max)));
        let routes = api::routes(&edge, health_service, settings.reflection);
        let stopping = lifecycle.clone();
        let router = server(&settings, &ambient).add_routes(routes);
        let server = Owned::spawn(router.serve_with_incoming_shutdown(incoming, async move { stopping.reached(Phase::Stopping).await }));
        let (drain_grace, drain_delay) = (settings.drain_grace, settings.drain_delay);
        Ok(Running {
            address,
            metrics_address,
            admin_token_file,
            domain,
            delivery,
            lifecycle,
            store,
            progress,
            drain_grace,
            drain_delay,
            server,
            _watchers: watchers,
        })
    }

    /// Opens the embedded store of a data folder, for the commands that work on a server that is not running.
    pub async fn store(data_dir: &Path, cache_bytes: u64) -> Result<SharedStore, AppError> {
        let (dir, options) = (data_dir.join("store"), SledOptions { cache_bytes, ..SledOptions::default() });
        let opened = tokio::task::spawn_blocking(move || SledStore::open(&dir, options)).await;
        Ok(Arc::new(opened.map_err(|fault| AppError::Internal(fault.to_string()))??))
    }

    /// Opens the catalogue of a data folder without serving it.
    pub async fn catalogue(settings: &Settings) -> Result<Domain, AppError> {
        Ok(house(settings, Parts::default(), Vec::new()).await?.domain)
    }
}

impl Running {
    /// Returns once someone asked the server to stop, or it ended by itself.
    pub async fn ended(&mut self) -> Result<(), AppError> {
        match (&mut self.server.0).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(AppError::Internal(fault.to_string())),
            Err(fault) => Err(AppError::Internal(fault.to_string())),
        }
    }

    /// Drains and stops, within [`crate::limits::SHUTDOWN_MAX`] whatever clients do.
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.lifecycle.drain();
        let told = self.delivery.direct(&Which::All, Directive::Drain { reason: DrainReason::Shutdown, grace: self.drain_grace });
        tracing::info!(sessions = told, "draining");
        // Still accepting meanwhile: a mesh needs a moment to look away, and a closed port would be an error to its callers.
        let (settled, ()) = tokio::join!(timeout(self.drain_grace, self.delivery.settled()), sleep(self.drain_delay));
        if settled.is_err() {
            tracing::warn!("some sessions did not settle in time; their clients resume elsewhere from the last ack");
        }
        self.lifecycle.stop();
        // tonic waits for its connections for ever: a client that never reads must not keep us.
        match timeout(STOP_MAX, &mut self.server.0).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(fault))) => tracing::error!(%fault, "the server ended badly"),
            Ok(Err(fault)) => tracing::error!(%fault, "the server ended badly"),
            Err(_) => tracing::warn!("some connections were cut"),
        }
        let flush = async {
            self.progress.flush().await.map_err(AppError::from)?;
            self.store.sync().await.map_err(AppError::from)
        };
        timeout(FLUSH_MAX, flush).await.map_err(|_| AppError::Unavailable("the store did not take the last notes in time".to_owned()))??;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The rooms below the transport, the lowest first.
async fn house(settings: &Settings, parts: Parts, own_listeners: Vec<SocketAddr>) -> Result<House, AppError> {
    let Parts { ambient, store, kinds: replaced, passwords } = parts;
    let new = make_data_dir(&settings.data_dir)?;
    let vault = Vault::new(key_ring(settings, new, &*ambient.ids)?);
    let store = match store {
        Some(store) => store,
        None => App::store(&settings.data_dir, settings.store_cache_bytes).await?,
    };
    let guard = Guard::new(store);
    let store: SharedStore = Arc::new(guard.clone());
    let rows = Rows::new(store.clone(), settings.table_bytes_max);
    let kinds = Kinds::standard(Local::new(rows.clone(), Arc::new(Tables::new(store.clone()))));
    let kinds = replaced.into_iter().fold(kinds, |kinds, kind| kinds.with(kind));
    let progress = Arc::new(KeptProgress::new(store.clone()));
    let delivery_settings =
        DeliverySettings { sessions_max: settings.sessions_max, budget_bytes: settings.budget_bytes, link: telemetry::link, ..DeliverySettings::default() };
    let delivery = Delivery::new(delivery_settings, ambient.clone(), progress.clone());
    let domain = Domain::start(DomainParts {
        store: store.clone(),
        vault,
        kinds,
        egress: Arc::new(egress(settings, own_listeners)?),
        ambient,
        rows,
        progress: progress.clone(),
        sessions: Arc::new(Open(delivery.clone())),
        audit: settings.data_dir.join("audit.log"),
        settings: domain::Settings {
            insecure_anonymous_admin: settings.insecure_anonymous_admin,
            secret_environment: settings.secret_environment.iter().cloned().collect(),
            secret_folders: settings.secret_folders.clone(),
            passwords,
        },
    })
    .await?;
    Ok(House { domain, delivery, store, guard, progress })
}

/// Makes the data folder, for its owner alone; whether nothing was stored in it yet.
fn make_data_dir(dir: &Path) -> Result<bool, AppError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|fault| AppError::Unavailable(format!("the data folder {} cannot be made: {fault}", dir.display())))?;
    match disk::network_file_system(dir) {
        Ok(Some(kind)) => tracing::warn!(
            folder = %dir.display(),
            kind,
            "the data folder lies on a network file system: a sync may promise more than it keeps there, and nothing keeps a second server out; use a disk of this machine"
        ),
        Ok(None) => {}
        Err(fault) => tracing::debug!(%fault, "what the data folder lies on cannot be told"),
    }
    Ok(!dir.join("store").exists())
}

/// The keys that seal secrets: from the environment, else from a file that the first start makes. A lost file is never replaced: what it sealed would be lost in silence.
fn key_ring(settings: &Settings, new: bool, ids: &dyn Ids) -> Result<KeyRing, AppError> {
    let source = match std::env::var(MASTER_KEY) {
        Ok(text) => KeySource::Text(Secret::from(text)),
        Err(_) => KeySource::File { path: settings.data_dir.join("keys"), create: new },
    };
    KeyRing::load(&source, ids).map_err(|fault| AppError::Unavailable(fault.to_string()))
}

fn egress(settings: &Settings, own_listeners: Vec<SocketAddr>) -> Result<Egress, AppError> {
    let variables = CLOUD_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
    let policy = EgressPolicy {
        allow: settings.egress_allow.clone(),
        deny: settings.egress_deny.clone(),
        private_allowed: settings.egress_private,
        own_listeners,
        cloud: Cloud { managed_credentials: settings.egress_managed_credentials, variables },
    };
    let extra = &settings.egress_ca;
    let pem = if extra.as_os_str().is_empty() { Ok(Vec::new()) } else { fs::read(extra) };
    let pem = pem.map_err(|fault| AppError::Settings(format!("egress_ca: {}: {fault}", extra.display())))?;
    Egress::new(policy, &pem).map_err(|fault| AppError::Settings(format!("egress_ca: {fault}")))
}

/// The file with the first admin's token, made where the admin has no way in.
async fn admin_token(domain: &Domain, settings: &Settings) -> Result<Option<PathBuf>, AppError> {
    let path = settings.data_dir.join("admin.token");
    if domain.needs_bootstrap().await? {
        domain.bootstrap_token(|token| keep_token(&path, token)).await?;
    }
    Ok(path.exists().then_some(path))
}

/// Writes a token to a file that only its owner can read, whole or not at all.
fn keep_token(path: &Path, token: &Secret) -> io::Result<()> {
    let draft = path.with_extension("token.new");
    // A draft that a crash left has someone else's mode, perhaps.
    let _ = fs::remove_file(&draft);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(token.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// What is open that should not be.
fn warnings(settings: &Settings, address: &ListenAddress, tls: bool) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if settings.insecure_anonymous_admin {
        warnings.push("insecure.anonymous_admin");
    }
    if !address.is_local() && !tls {
        warnings.push("insecure.listen");
    }
    warnings
}

type Layers = tower::layer::util::Stack<
    GlobalConcurrencyLimitLayer,
    tower::layer::util::Stack<DeadlineLayer, tower::layer::util::Stack<RetellLayer, tower::layer::util::Stack<TraceLayer, tower::layer::util::Identity>>>,
>;

/// HTTP/2 as the mesh needs it, and the layers in the order that `api/layers.rs` explains. `max_connection_age_grace` is never set: with it tonic sends no GOAWAY and cuts streams.
fn server(
    settings: &Settings,
    ambient: &Ambient,
) -> Server<tower::layer::util::Stack<Layers, tower::layer::util::Stack<layers::CatchPanic, tower::layer::util::Identity>>> {
    let shared = ServiceBuilder::new()
        .layer(TraceLayer(ambient.ids.clone()))
        .layer(RetellLayer)
        .layer(DeadlineLayer)
        .layer(GlobalConcurrencyLimitLayer::new(settings.calls_max))
        .into_inner();
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .max_concurrent_streams(1_024)
        .http2_max_header_list_size(64 << 10)
        .max_connection_age(jittered(settings.connection_age, &*ambient.ids))
        .layer(layers::catch_panic(ambient.ids.clone()))
        .layer(shared)
}

/// Give or take a tenth, so that replicas that started together do not rebalance together.
fn jittered(age: Duration, ids: &dyn Ids) -> Duration {
    let mut byte = [0];
    ids.fill(&mut byte);
    age.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

/// Turns health over when the server drains or its own store cannot be written; back when the store can.
async fn watch_health(health: Health, lifecycle: Lifecycle, store: SharedStore) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = true;
    loop {
        tokio::select! {
            () = lifecycle.reached(Phase::Draining) => {
                health.announce(false).await;
                return;
            }
            _ = ticks.tick() => {
                let well = store.sync().await.is_ok();
                if well != serving {
                    serving = well;
                    tracing::error!(serving, "the store's health changed");
                    health.announce(serving).await;
                }
            }
        }
    }
}

/// Shuts the store for writing while less than `least` bytes are free, and opens it again a little above, so that it does not flap.
async fn watch_disk(guard: Guard, folder: PathBuf, least: u64) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shut = false;
    loop {
        ticks.tick().await;
        let place = folder.clone();
        let free = match tokio::task::spawn_blocking(move || disk::free_bytes(&place)).await {
            Ok(Ok(free)) => free,
            Ok(Err(fault)) => {
                tracing::warn!(%fault, "how much room the data folder's disk has cannot be told");
                continue;
            }
            Err(fault) => {
                tracing::error!(%fault, "the look at the disk broke");
                continue;
            }
        };
        metrics::gauge!("datasink_disk_free_bytes").set(free as f64);
        shut = free < if shut { least.saturating_add(least / 10) } else { least };
        let why = shut.then(|| {
            format!("the disk of the data folder has {free} bytes free and {least} must stay free (disk_free_bytes_min); nothing is written until there is more room")
        });
        if guard.shut(why) {
            tracing::error!(free, least, read_only = shut, "the room on the data folder's disk changed what this server takes");
        }
    }
}

async fn warn_hourly(warnings: Vec<&'static str>) {
    let mut ticks = interval(WARN_EVERY);
    while !warnings.is_empty() {
        ticks.tick().await;
        tracing::warn!(?warnings, "this server is open to whoever reaches it");
    }
}

/// What people began and did not finish does not stay for ever, nor what nobody goes on with.
async fn forget_old(domain: Domain) {
    let mut ticks = interval(WARN_EVERY);
    loop {
        ticks.tick().await;
        match domain.forget_unfinished().await {
            Ok(0) => {}
            Ok(streams) => tracing::info!(streams, "streams of local tables were forgotten that put nothing aside for a day, or that nobody can open again"),
            Err(problem) => tracing::warn!(%problem, "unfinished streams could not be forgotten; it is tried again in an hour"),
        }
        match domain.forget_idle_streams().await {
            Ok(0) => {}
            Ok(streams) => tracing::info!(streams, "streams were forgotten that were idle for seven days"),
            Err(problem) => tracing::warn!(%problem, "idle streams could not be forgotten; it is tried again in an hour"),
        }
    }
}

async fn watch_certificate(tls: Arc<Tls>) {
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let tls = tls.clone();
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => tracing::info!("the certificate was read again"),
            Ok(Ok(false)) => {}
            Ok(Err(fault)) => tracing::warn!(%fault, "the certificate's files changed and cannot be used; the last good ones stay"),
            Err(fault) => tracing::error!(%fault, "reading the certificate broke"),
        }
    }
}

async fn bind_metrics(address: &str) -> Result<Option<TcpListener>, AppError> {
    if address.is_empty() {
        return Ok(None);
    }
    let parsed: SocketAddr = address.parse().map_err(|_| AppError::Settings(format!("metrics_listen: {address:?} is not ADDRESS:PORT")))?;
    TcpListener::bind(parsed).await.map(Some).map_err(|fault| AppError::Listen { address: address.to_owned(), fault })
}

/// Prometheus text for whoever asks; the listener is the process's own, off the public address.
async fn serve_metrics(listener: TcpListener) {
    let rendered = telemetry::metrics();
    let answer = tower::service_fn(move |request: Request<Body>| {
        let rendered = rendered.clone();
        async move {
            let mut response = Response::new(Body::empty());
            if request.uri().path() == "/metrics" {
                rendered.run_upkeep();
                response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; version=0.0.4"));
                *response.body_mut() = Body::new(Full::from(rendered.render()));
            } else {
                *response.status_mut() = http::StatusCode::NOT_FOUND;
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let served = Server::builder().accept_http1(true).serve_with_incoming_shutdown(answer, TcpIncoming::from(listener), std::future::pending()).await;
    if let Err(fault) = served {
        tracing::error!(%fault, "the metrics listener ended");
    }
}
