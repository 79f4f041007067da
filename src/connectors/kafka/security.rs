//! Why: a credential becomes settings of the client library here, from a closed list. Never passes a path, a command or an option of the user's own choice on, and never lets a check of certificates be switched off.

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use rdkafka::ClientConfig;

use super::token::TokenSource;
use crate::{
    connectors::{
        connector::ConnectContext,
        credential::OpenCredential,
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    secret::{Redactor, Secret},
};

/// How SASL authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Scram256,
    Scram512,
    OauthBearer,
}

impl Mechanism {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram256 => "SCRAM-SHA-256",
            Self::Scram512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// How connections are protected and authenticated.
#[derive(Debug)]
pub(super) struct Security {
    pub(super) tls: bool,
    pub(super) mechanism: Option<Mechanism>,
    /// Whether the credential could be read or used by whoever sees it pass, so that only loopback addresses will do.
    pub(super) loopback_only: bool,
    /// Where tokens come from, for OAUTHBEARER.
    pub(super) tokens: Option<Arc<TokenSource>>,
    /// Knows the credential's secrets.
    pub(super) redactor: Arc<Redactor>,
    settings: Vec<(&'static str, Secret)>,
}

/// The platform's certificate authorities as PEM: the library takes either these or ours, so ours are added to them.
static PLATFORM_ROOTS: LazyLock<String> = LazyLock::new(|| {
    let platform = rustls_native_certs::load_native_certs();
    platform.certs.iter().fold(String::new(), |pem, certificate| pem + &pem_of(certificate))
});

fn pem_of(der: &[u8]) -> String {
    let lines: Vec<String> = STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

impl Security {
    /// No credential: neither TLS nor SASL.
    fn open() -> Self {
        Self { tls: false, mechanism: None, loopback_only: false, tokens: None, redactor: Arc::default(), settings: Vec::new() }
    }

    /// What the sink's credential says; every fault at once.
    pub(super) fn of(cx: &ConnectContext) -> Result<Self, ConnectorError> {
        let Some(credential) = &cx.credential else { return Ok(Self::open()) };
        let given = Given { credential, faults: std::cell::RefCell::default() };
        let security = given.security(cx);
        let faults = given.faults.into_inner();
        match security {
            Some(security) if faults.is_empty() => Ok(security),
            _ => Err(ConnectorError::new(
                Kind::Misconfigured,
                format!("the credential of sink {} cannot be used with Kafka: {}; alter the credential", cx.sink, faults.join("; ")),
            )),
        }
    }

    /// Sets everything that concerns security; whatever is not set here stays off.
    pub(super) fn apply(&self, config: &mut ClientConfig) {
        let protocol = match (self.tls, self.mechanism.is_some()) {
            (false, false) => "PLAINTEXT",
            (false, true) => "SASL_PLAINTEXT",
            (true, false) => "SSL",
            (true, true) => "SASL_SSL",
        };
        config
            .set("security.protocol", protocol)
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https")
            // The library would run this as a shell command, with the principal in it.
            .set("sasl.kerberos.kinit.cmd", "true");
        if let Some(mechanism) = self.mechanism {
            config.set("sasl.mechanism", mechanism.as_str());
        }
        for (name, value) in &self.settings {
            // Each was text when it was taken in.
            config.set(*name, value.expose_text().unwrap_or_default());
        }
    }
}

/// A credential being read.
struct Given<'c> {
    credential: &'c OpenCredential,
    faults: std::cell::RefCell<Vec<String>>,
}

impl Given<'_> {
    fn fault<T>(&self, message: impl Into<String>) -> Option<T> {
        self.faults.borrow_mut().push(message.into());
        None
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.credential.options.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.credential.secret_options.get(name).filter(|secret| !secret.is_empty())
    }

    fn has(&self, prefix: &str) -> bool {
        let names = self.credential.options.keys().chain(self.credential.secret_options.keys());
        names.into_iter().any(|name| name.starts_with(prefix))
    }

    fn own_identity(&self) -> Option<&str> {
        Some(self.credential.identity.as_str()).filter(|identity| !identity.is_empty())
    }

    fn own_secret(&self) -> Option<&Secret> {
        self.credential.secret.as_ref().filter(|secret| !secret.is_empty())
    }

    fn security(&self, cx: &ConnectContext) -> Option<Security> {
        self.refuse_what_is_not_supported();
        let sasl_given = self.has("sasl.") || self.own_identity().is_some() || self.own_secret().is_some();
        let protocol = self.text("security.protocol").unwrap_or(if sasl_given { "SASL_SSL" } else { "SSL" });
        let (tls, sasl) = (protocol != "SASL_PLAINTEXT", protocol != "SSL");
        if !tls && self.has("ssl.") {
            self.fault::<()>("its security.protocol SASL_PLAINTEXT has no TLS, so ssl options mean nothing; write SASL_SSL or leave them out");
        }
        if !sasl && sasl_given {
            self.fault::<()>("its security.protocol SSL has no SASL, so a user, password or token means nothing; write SASL_SSL or leave them out");
        }
        let mut settings = Vec::new();
        let mechanism = if sasl { self.mechanism() } else { None };
        let mut tokens = None;
        match mechanism {
            Some(Mechanism::OauthBearer) => tokens = self.tokens(cx),
            Some(mechanism) => self.password(mechanism, &mut settings),
            None => {}
        }
        if tls {
            self.certificates(&mut settings);
        }
        let redactor = Redactor::new(self.credential.secret.iter().chain(self.credential.secret_options.values()));
        let loopback_only = !tls && matches!(mechanism, Some(Mechanism::Plain | Mechanism::OauthBearer));
        Some(Security { tls, mechanism, loopback_only, tokens, redactor: Arc::new(redactor), settings })
    }

    fn refuse_what_is_not_supported(&self) {
        if self.text("sasl.mechanism") == Some("GSSAPI") || self.has("sasl.kerberos.") {
            self.fault::<()>("Kerberos (GSSAPI) is not supported; use SCRAM-SHA-512 or OAUTHBEARER over SASL_SSL, or a client certificate over SSL");
        }
        for (location, pem) in [("ssl.ca.location", "ssl.ca.pem"), ("ssl.certificate.location", "ssl.certificate.pem"), ("ssl.key.location", "ssl.key.pem")] {
            if self.text(location).is_some() {
                self.fault::<()>(format!("{location} names a file, which is not supported; give the PEM by value in {pem}"));
            }
        }
    }

    fn mechanism(&self) -> Option<Mechanism> {
        match self.text("sasl.mechanism") {
            Some("PLAIN") => Some(Mechanism::Plain),
            Some("SCRAM-SHA-256") => Some(Mechanism::Scram256),
            Some("SCRAM-SHA-512") => Some(Mechanism::Scram512),
            Some("OAUTHBEARER") => Some(Mechanism::OauthBearer),
            // Told already.
            Some("GSSAPI") => None,
            Some(_) => self.fault("its sasl.mechanism is not PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"),
            None if self.has("sasl.oauthbearer.") => Some(Mechanism::OauthBearer),
            None if self.has("sasl.kerberos.") => None,
            None => Some(Mechanism::Plain),
        }
    }

    fn password(&self, mechanism: Mechanism, settings: &mut Vec<(&'static str, Secret)>) {
        let name = mechanism.as_str();
        if self.has("sasl.oauthbearer.") {
            self.fault::<()>(format!("sasl.oauthbearer options mean nothing for {name}; leave them out"));
        }
        match self.text("sasl.username").or(self.own_identity()) {
            Some(user) => settings.push(("sasl.username", Secret::from(user.to_owned()))),
            None => _ = self.fault::<()>(format!("{name} needs a user, in sasl.username or as the identity")),
        }
        match self.secret("sasl.password").or(self.own_secret()) {
            Some(password) => settings.extend(self.copy("sasl.password", password)),
            None => _ = self.fault::<()>(format!("{name} needs a password, in sasl.password or as the secret")),
        }
    }

    fn tokens(&self, cx: &ConnectContext) -> Option<Arc<TokenSource>> {
        if self.text("sasl.username").is_some() || self.secret("sasl.password").is_some() {
            return self.fault("sasl.username and sasl.password mean nothing for OAUTHBEARER; leave them out");
        }
        let source = match self.text("sasl.oauthbearer.token.endpoint.url") {
            None => match self.secret("sasl.oauthbearer.token").or(self.own_secret()) {
                Some(token) => TokenSource::given(cx, self.own_identity(), token),
                None => {
                    Err("OAUTHBEARER needs a token, in sasl.oauthbearer.token or as the secret, or sasl.oauthbearer.token.endpoint.url to fetch one".to_owned())
                }
            },
            Some(url) => {
                let id = self.text("sasl.oauthbearer.client.id").or(self.own_identity());
                let secret = self.secret("sasl.oauthbearer.client.secret").or(self.own_secret());
                match (id, secret, self.secret("sasl.oauthbearer.token")) {
                    (.., Some(_)) => Err("a token and a token endpoint exclude each other; leave one of them out".to_owned()),
                    (Some(id), Some(secret), None) => TokenSource::fetched(cx, url, id, secret, self.text("sasl.oauthbearer.scope")),
                    _ => Err("a token endpoint needs sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret, or identity and secret".to_owned()),
                }
            }
        };
        match source {
            Ok(source) => Some(Arc::new(source)),
            Err(fault) => self.fault(fault),
        }
    }

    fn certificates(&self, settings: &mut Vec<(&'static str, Secret)>) {
        let pem = |name: &str, text: Option<&str>| match text {
            Some(text) if !text.contains("-----BEGIN ") => self.fault(format!("{name} is not PEM text; it has lines like -----BEGIN …-----")),
            other => other.map(str::to_owned),
        };
        if let Some(roots) = pem("ssl.ca.pem", self.text("ssl.ca.pem")) {
            settings.push(("ssl.ca.pem", Secret::from(format!("{}{}\n", *PLATFORM_ROOTS, roots.trim()))));
        }
        let certificate = pem("ssl.certificate.pem", self.text("ssl.certificate.pem"));
        let key = self.secret("ssl.key.pem");
        if certificate.is_some() != key.is_some() {
            self.fault::<()>("ssl.certificate.pem and ssl.key.pem go together");
        }
        if let (Some(certificate), Some(key)) = (certificate, key) {
            pem("ssl.key.pem", key.expose_text());
            settings.push(("ssl.certificate.pem", Secret::from(certificate)));
            settings.extend(self.copy("ssl.key.pem", key));
        }
        if let Some(password) = self.secret("ssl.key.password") {
            if key.is_none() {
                self.fault::<()>("ssl.key.password means nothing without ssl.key.pem");
            }
            settings.extend(self.copy("ssl.key.password", password));
        }
    }

    fn copy(&self, name: &'static str, secret: &Secret) -> Option<(&'static str, Secret)> {
        match secret.expose_text().filter(|text| !text.contains('\0')) {
            Some(text) => Some((name, Secret::from(text.to_owned()))),
            None => self.fault(format!("{name} is not text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::connectors::{credential::CredentialType, kafka::tests::context};

    fn of(identity: &str, secret: Option<&str>, options: &[(&str, &str)], secret_options: &[(&str, &str)]) -> Result<Security, String> {
        let credential = OpenCredential {
            credential_type: CredentialType::Kafka,
            identity: identity.to_owned(),
            secret: secret.map(|text| Secret::from(text.to_owned())),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
            secret_options: secret_options.iter().map(|(name, value)| ((*name).to_owned(), Secret::from((*value).to_owned()))).collect(),
            version: 1,
        };
        Security::of(&context(Some(credential))).map_err(|error| error.message)
    }

    fn set(security: &Security, name: &str) -> Option<String> {
        let mut config = ClientConfig::new();
        security.apply(&mut config);
        config.get(name).map(str::to_owned)
    }

    #[tokio::test]
    async fn each_documented_combination_is_taken() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
        let plain = of("", None, &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "u")], &[("sasl.password", "p")]).unwrap();
        assert!(plain.tls && !plain.loopback_only && set(&plain, "sasl.password").as_deref() == Some("p"));
        let scram = of("u", Some("p"), &[("sasl.mechanism", "SCRAM-SHA-512"), ("security.protocol", "SASL_PLAINTEXT")], &[]).unwrap();
        assert!(!scram.tls && !scram.loopback_only && set(&scram, "sasl.mechanism").as_deref() == Some("SCRAM-SHA-512"));
        assert!(of("u", Some("p"), &[("security.protocol", "SASL_PLAINTEXT")], &[]).unwrap().loopback_only, "a password in the clear stays on this machine");
        let ca = of("", None, &[("security.protocol", "SSL"), ("ssl.ca.pem", PEM)], &[]).unwrap();
        assert!(set(&ca, "ssl.ca.pem").is_some_and(|roots| roots.ends_with(&format!("{PEM}\n"))));
        let mutual = of("", None, &[("ssl.certificate.pem", PEM)], &[("ssl.key.pem", "-----BEGIN PRIVATE KEY-----"), ("ssl.key.password", "x")]).unwrap();
        assert_eq!(set(&mutual, "security.protocol").as_deref(), Some("SSL"));
        assert!(of("", Some("token"), &[("sasl.mechanism", "OAUTHBEARER")], &[]).unwrap().tokens.is_some());
    }

    #[tokio::test]
    async fn nothing_that_could_run_a_command_read_a_file_or_skip_a_check_gets_through() {
        for security in [Security::open(), of("u", Some("p"), &[], &[]).unwrap()] {
            assert_eq!(set(&security, "sasl.kerberos.kinit.cmd").as_deref(), Some("true"));
            assert_eq!(set(&security, "ssl.endpoint.identification.algorithm").as_deref(), Some("https"));
            assert_eq!(set(&security, "enable.ssl.certificate.verification").as_deref(), Some("true"));
        }
        let kerberos = [
            ("sasl.mechanism", "GSSAPI"),
            ("sasl.kerberos.principal", "x; touch f #"),
            ("ssl.ca.location", "kifs://a/ca.pem"),
            ("ssl.key.location", "/etc/passwd"),
        ];
        let refused = of("", None, &kerberos, &[]).unwrap_err();
        for part in ["SCRAM-SHA-512", "ssl.ca.pem", "ssl.key.pem", "alter the credential"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        assert!(!refused.contains("touch") && !refused.contains("passwd"), "{refused}");
    }

    #[tokio::test]
    async fn what_does_not_go_together_is_told_at_once() {
        let told = |options: &[(&str, &str)], secrets: &[(&str, &str)]| of("", None, options, secrets).unwrap_err();
        assert!(told(&[("sasl.mechanism", "SCRAM-SHA-256")], &[]).matches("needs").count() == 2);
        assert!(told(&[("security.protocol", "SSL"), ("sasl.username", "u")], &[]).contains("no SASL"));
        assert!(told(&[("ssl.certificate.pem", "nonsense")], &[]).contains("not PEM"));
        assert!(told(&[("security.protocol", "SSL")], &[("ssl.key.pem", "k")]).contains("go together"));
        assert!(told(&[("sasl.mechanism", "OAUTHBEARER")], &[]).contains("token"));
        let both = told(&[("sasl.oauthbearer.token.endpoint.url", "https://idp/token")], &[("sasl.oauthbearer.token", "canary")]);
        assert!(both.contains("exclude") && !both.contains("canary"));
    }
}
