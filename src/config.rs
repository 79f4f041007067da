//! Why: every setting of the process has a name, a default and a sentence, in one file. Never a secret: those come by file or by `DATASINK_MASTER_KEY`.

use std::{path::PathBuf, time::Duration};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    api::{authn::TrustedProxy, listener::ListenAddress, tls::TlsFiles},
    limits,
    telemetry::LogFormat,
};

/// The defaults and what each setting means.
pub const DEFAULTS: &str = include_str!("config.default.toml");
/// The longest drain: what is left of [`limits::SHUTDOWN_MAX`] closes connections and writes the last notes.
const DRAIN_MAX: Duration = Duration::from_secs(22);
const _: () = assert!(DRAIN_MAX.as_secs() + 7 < limits::SHUTDOWN_MAX.as_secs());
/// Variables with our prefix that are not settings: a secret, and what clients read.
const NOT_SETTINGS: &[&str] = &["master_key", "address", "token", "token_file", "ca_file", "server", "test", "log_level"];

/// Settings of `datasink serve`; `config.default.toml` says what each one means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml has the sentence of each, and `datasink settings` prints it")]
pub struct Settings {
    pub listen: String,
    pub data_dir: PathBuf,
    pub metrics_listen: String,
    pub tls_certificate: PathBuf,
    pub tls_key: PathBuf,
    pub tls_client_ca: PathBuf,
    pub tls_client_required: bool,
    pub tls_1_2: bool,
    pub trusted_proxies: Vec<String>,
    pub insecure_listen: bool,
    pub insecure_anonymous_admin: bool,
    pub reflection: bool,
    pub connections_max: usize,
    pub calls_max: usize,
    pub secret_environment: Vec<String>,
    pub secret_folders: Vec<PathBuf>,
    pub egress_allow: Vec<IpNet>,
    pub egress_deny: Vec<IpNet>,
    pub egress_private: bool,
    pub egress_ca: PathBuf,
    pub egress_managed_credentials: bool,
    pub sessions_max: usize,
    pub budget_bytes: u64,
    #[serde(with = "span")]
    pub first_frame_timeout: Duration,
    #[serde(with = "span")]
    pub heartbeat_interval: Duration,
    #[serde(with = "span")]
    pub session_age: Duration,
    #[serde(with = "span")]
    pub connection_age: Duration,
    pub table_bytes_max: u64,
    pub store_cache_bytes: u64,
    #[serde(with = "span")]
    pub drain_grace: Duration,
    #[serde(with = "span")]
    pub drain_delay: Duration,
    pub log: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: String,
}

/// Durations as people write them: `15s`, `30m`.
mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Flags of `datasink serve`. What has no flag of its own is set by `--set NAME=VALUE`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Flags {
    /// TOML file with settings; `datasink settings` lists them.
    #[arg(long, env = "DATASINK_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where to listen: ADDRESS:PORT (port 0: any free one) or unix:PATH.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Folder of the store, the key ring, the audit log and the first admin's token.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Where Prometheus scrapes, ADDRESS:PORT.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<String>,
    /// PEM file with the server's certificate chain.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with its private key.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities of client certificates.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
    /// A neighbour whose forwarded identities are believed; may be repeated.
    #[arg(long = "trusted-proxy")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// A private network that every sink kind may reach; may be repeated.
    #[arg(long = "egress-allow", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<IpNet>,
    /// Listen beyond this machine without TLS.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_listen: bool,
    /// Take whoever proves nothing for admin; only on loopback.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_anonymous_admin: bool,
    /// How long the server still accepts after it began to drain.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_delay: Option<String>,
    /// Which log lines are written.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Where spans are sent.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Any setting, NAME=VALUE in TOML; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    #[serde(skip)]
    pub set: Vec<String>,
}

/// Where settings come from, the weakest first.
fn sources(flags: &Flags) -> Result<Figment, String> {
    let mut figment = Figment::from(Toml::string(DEFAULTS));
    if let Some(path) = &flags.config {
        if !path.is_file() {
            return Err(format!("{} is not a file; --config takes a TOML file with settings", path.display()));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed("DATASINK_").ignore(NOT_SETTINGS).ignore(&["config"]));
    figment = figment.merge(Serialized::defaults(flags));
    for assignment in &flags.set {
        // Bare words are text, as in a shell: --set log=debug.
        let quoted = || assignment.split_once('=').map(|(name, value)| format!("{name} = {value:?}")).unwrap_or_default();
        let text = if assignment.parse::<toml_check::Assignment>().is_ok() { assignment.clone() } else { quoted() };
        figment = figment.merge(Toml::string(&text));
    }
    Ok(figment)
}

impl Settings {
    /// Reads every source and checks what they say together; the fault names the setting.
    pub fn load(flags: &Flags) -> Result<Self, String> {
        let settings: Self = sources(flags)?.extract().map_err(|error| error.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join("; "))?;
        settings.check()?;
        Ok(settings)
    }

    /// The defaults alone.
    pub fn defaults() -> Self {
        Figment::from(Toml::string(DEFAULTS)).extract().expect("a test reads the defaults")
    }

    /// The store's page cache for commands that read no settings.
    pub fn default_cache_bytes() -> u64 {
        Self::defaults().store_cache_bytes
    }

    fn check(&self) -> Result<(), String> {
        let address = self.listen_address()?;
        let tls = self.tls()?;
        self.trusted()?;
        if self.insecure_anonymous_admin && !address.is_local() {
            return Err(format!("insecure_anonymous_admin works on loopback only, and listen is {}; create tokens instead", self.listen));
        }
        if !address.is_local() && tls.is_none() && !self.insecure_listen {
            return Err(format!(
                "listen is {}, which others can reach, and there is no TLS; set tls_certificate and tls_key, or insecure_listen where a mesh encrypts",
                self.listen
            ));
        }
        if self.drain_grace.max(self.drain_delay) > DRAIN_MAX {
            return Err(format!("drain_grace and drain_delay must each be at most {} s: the whole stop takes less than 30 s", DRAIN_MAX.as_secs()));
        }
        for (name, value) in [("calls_max", self.calls_max), ("connections_max", self.connections_max), ("sessions_max", self.sessions_max)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        for (name, value) in
            [("heartbeat_interval", self.heartbeat_interval), ("first_frame_timeout", self.first_frame_timeout), ("session_age", self.session_age)]
        {
            if value.is_zero() {
                return Err(format!("{name} must be longer than nothing"));
            }
        }
        Ok(())
    }

    /// Where to listen.
    pub fn listen_address(&self) -> Result<ListenAddress, String> {
        ListenAddress::parse(&self.listen).map_err(|fault| format!("listen: {fault}"))
    }

    /// Our side of TLS, where it is set.
    pub fn tls(&self) -> Result<Option<TlsFiles>, String> {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        match (given(&self.tls_certificate), given(&self.tls_key)) {
            (true, true) => Ok(Some(TlsFiles {
                certificate: self.tls_certificate.clone(),
                key: self.tls_key.clone(),
                client_ca: given(&self.tls_client_ca).then(|| self.tls_client_ca.clone()),
                client_required: self.tls_client_required,
                tls_1_2: self.tls_1_2,
            })),
            (false, false) if given(&self.tls_client_ca) => Err("tls_client_ca needs tls_certificate and tls_key".to_owned()),
            (false, false) => Ok(None),
            _ => Err("tls_certificate and tls_key belong together; set both".to_owned()),
        }
    }

    /// Neighbours whose word counts.
    pub fn trusted(&self) -> Result<Vec<TrustedProxy>, String> {
        self.trusted_proxies.iter().map(|text| TrustedProxy::parse(text).map_err(|fault| format!("trusted_proxies: {fault}"))).collect()
    }
}

/// Every setting: its value, where that comes from, its sentence.
pub fn listing(flags: &Flags) -> Result<String, String> {
    use std::fmt::Write;
    let figment = sources(flags)?;
    let mut out = String::new();
    for Described { name, sentence } in described() {
        let value = figment.find_value(name).map_err(|error| error.to_string())?;
        let from = figment.find_metadata(name).map_or_else(String::new, |found| match &*found.name {
            "TOML source string" if flags.set.iter().any(|set| set.trim_start().starts_with(name)) => "a flag".to_owned(),
            "TOML source string" => "the default".to_owned(),
            "TOML file" => "the file".to_owned(),
            other if other.contains("environment") => "the environment".to_owned(),
            _ => "a flag".to_owned(),
        });
        let value = serde_json::to_string(&value).map_err(|error| error.to_string())?;
        writeln!(out, "{name} = {value}  (from {from})\n    {sentence}").map_err(|error| error.to_string())?;
    }
    Ok(out)
}

/// A setting's name and sentence, from the comments of the defaults.
struct Described {
    name: &'static str,
    sentence: &'static str,
}

fn described() -> Vec<Described> {
    let lines: Vec<&'static str> = DEFAULTS.lines().collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let sentence = pair[0].strip_prefix("# ")?;
        let (name, _) = pair[1].split_once(" = ")?;
        Some(Described { name, sentence })
    });
    pairs.collect()
}

/// Tells `name = "text"` in TOML from a bare word.
mod toml_check {
    use figment::{
        Figment,
        providers::{Format, Toml},
    };

    /// An assignment that TOML takes as it is.
    pub(super) struct Assignment;

    impl std::str::FromStr for Assignment {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            Figment::from(Toml::string(text)).extract::<serde_json::Value>().map(|_| Self).map_err(|_| ())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[&str]) -> Result<Settings, String> {
        Settings::load(&Flags { set: set.iter().map(|text| (*text).to_owned()).collect(), ..Flags::default() })
    }

    #[test]
    fn every_setting_has_a_default_and_a_sentence() {
        let fields = serde_json::to_value(Settings::defaults()).unwrap();
        let mut fields: Vec<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = described().iter().map(|setting| setting.name).collect();
        assert!(described().iter().all(|setting| setting.sentence.ends_with('.')));
        fields.sort_unstable();
        listed.sort_unstable();
        assert_eq!(fields, listed);
        assert_eq!(listing(&Flags::default()).unwrap().lines().count(), 2 * fields.len());
    }

    #[test]
    fn flags_are_stronger_than_defaults_and_told_so() {
        let flags = Flags { listen: Some("127.0.0.1:0".to_owned()), set: vec!["log=debug".to_owned(), "calls_max = 7".to_owned()], ..Flags::default() };
        let settings = Settings::load(&flags).unwrap();
        assert_eq!((settings.listen.as_str(), settings.log.as_str(), settings.calls_max), ("127.0.0.1:0", "debug", 7));
        let listed = listing(&flags).unwrap();
        assert!(listed.contains("listen = \"127.0.0.1:0\"  (from a flag)"), "{listed}");
        assert!(listed.contains("data_dir = \"datasink-data\"  (from the default)"), "{listed}");
    }

    #[test]
    fn unknown_and_impossible_settings_are_refused_by_name() {
        for (set, word) in [
            (&["lisen=x"][..], "lisen"),
            (&["listen=localhost"], "listen"),
            (&["listen=0.0.0.0:1"], "insecure_listen"),
            (&["listen=0.0.0.0:1", "insecure_listen=true", "insecure_anonymous_admin=true"], "loopback"),
            (&["tls_key=x"], "tls_certificate"),
            (&["trusted_proxies=[\"everybody\"]"], "trusted_proxies"),
            (&["drain_delay=23s"], "drain_grace"),
            (&["heartbeat_interval=0s"], "heartbeat_interval"),
            (&["calls_max=0"], "calls_max"),
        ] {
            let fault = load(set).unwrap_err();
            assert!(fault.contains(word), "{set:?}: {fault}");
        }
        assert!(load(&["listen=0.0.0.0:1", "insecure_listen=true"]).is_ok());
    }
}
