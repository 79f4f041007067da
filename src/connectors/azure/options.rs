//! Why: what may be said about an Azure sink, and what a checked one is. Never reads a credential and never connects.

use zeroize::Zeroizing;

use super::sas::Sas;
use crate::connectors::{
    connector::SinkKind,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind as Kind},
    object::{CLOUD_OPTIONS, Endpoint, Host, OBJECT_OPTIONS, is_plain_name, name_fault, one_scheme},
    options::{COMMON, ConfigFault, ConfigFaultKind, OptionSpec, OptionType, Options, join},
};

const OWN: [OptionSpec; 6] = [
    OptionSpec::new("azure_container_name", OptionType::Text, "Container.").place().required(),
    OptionSpec::new("azure_storage_account_name", OptionType::Text, "Storage account, where neither the credential nor the host names it.").place(),
    OptionSpec::new("azure_tenant_id", OptionType::Text, "Active Directory tenant, where the credential does not name it."),
    OptionSpec::new("azure_sas_token", OptionType::Text, "Shared access signature of the account, instead of a credential.").secret(),
    OptionSpec::new("azure_oauth_token", OptionType::Text, "OAuth bearer token, instead of a credential; nobody renews it.").secret(),
    OptionSpec::new("azure_use_virtual_addressing", OptionType::Bool, "Whether the account is part of the host name (true) or of the path (false).")
        .place()
        .or("true"),
];

/// Every option of an Azure sink.
pub(super) static OPTIONS: [OptionSpec; COMMON.len() + CLOUD_OPTIONS.len() + OBJECT_OPTIONS.len() + OWN.len()] =
    join(&[&COMMON, &CLOUD_OPTIONS, &OBJECT_OPTIONS, &OWN]);

/// What the sink itself says of who we are.
#[derive(Clone)]
pub(super) enum Inline {
    /// The credential does.
    Nothing,
    Sas(Zeroizing<String>),
    Bearer(Zeroizing<String>),
    /// The identity of this host.
    Managed,
}

/// A checked Azure destination.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) container: String,
    /// Where the user said; the default host of the account otherwise.
    pub(super) host: Option<Host>,
    pub(super) https: bool,
    /// Whether the account is in the host name; otherwise it is the first part of the path.
    pub(super) in_host_name: bool,
    pub(super) account: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) inline: Inline,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("container", &self.container).field("host", &self.host).field("account", &self.account).finish_non_exhaustive()
    }
}

const WAYS: [&str; 4] = ["azure_oauth_token", "azure_sas_token", "credential", "use_managed_credentials"];
pub(super) const ACCOUNT_ALLOWED: &str = "3 to 24 lower-case letters and digits";

pub(super) fn is_account(name: &str) -> bool {
    is_plain_name(name, 3, 24, b"")
}

pub(super) fn is_tenant(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

impl Place {
    /// Checks destination and options together; every fault at once.
    pub(super) fn check(destination: &Destination, options: &Options) -> Result<Self, Vec<ConfigFault>> {
        let text = |name: &str| options.text(name).map(str::to_owned);
        let container = text("azure_container_name").unwrap_or_default();
        let (account, tenant) = (text("azure_storage_account_name"), text("azure_tenant_id"));
        let mut faults = one_scheme(options, &WAYS);
        let allowed = "3 to 63 lower-case letters, digits and \"-\", a letter or digit at both ends, no \"--\"";
        faults.extend(name_fault("azure_container_name", &container, allowed, |name| is_plain_name(name, 3, 63, b"-") && !name.contains("--")));
        if let Some(account) = &account {
            faults.extend(name_fault("azure_storage_account_name", account, ACCOUNT_ALLOWED, is_account));
        }
        if let Some(tenant) = &tenant {
            faults.extend(name_fault("azure_tenant_id", tenant, "a tenant's id or domain", is_tenant));
        }
        let inline = inline(options).map_err(|fault| faults.push(fault)).unwrap_or(Inline::Nothing);
        let host = Host::of(destination).map_err(|more| faults.extend(more)).unwrap_or(None);
        faults.extend(missing(options, host.as_ref()));
        if !faults.is_empty() {
            return Err(faults);
        }
        let in_host_name = options.flag("azure_use_virtual_addressing") && !host.as_ref().is_some_and(Host::is_address);
        Ok(Self { container, host, https: options.flag("use_https"), in_host_name, account, tenant, inline })
    }

    /// The account that the host names, where it is one of Azure's own.
    pub(super) fn account_of_host(&self) -> Option<&str> {
        account_of(self.host.as_ref()?)
    }

    /// Where requests go.
    pub(super) fn endpoint(&self, account: &str) -> Result<Endpoint, ConnectorError> {
        let segment = (!self.in_host_name).then_some(account);
        let url = match &self.host {
            Some(host) => host.url(self.https, None, segment),
            None if self.in_host_name => Host::named(format!("{account}.blob.core.windows.net")).url(self.https, None, None),
            None => Host::named("blob.core.windows.net").url(self.https, None, segment),
        };
        let url = url.map_err(|fault| ConnectorError::new(Kind::Misconfigured, format!("the account {account} and the destination make no host: {fault}")))?;
        Ok(Endpoint { url, verify_tls: true, kind: SinkKind::Azure })
    }
}

fn account_of(host: &Host) -> Option<&str> {
    let (account, rest) = host.name().split_once('.')?;
    let azure = rest.starts_with("blob.core.") || rest.ends_with(".blob.storage.azure.net");
    Some(account).filter(|account| azure && is_account(account))
}

fn inline(options: &Options) -> Result<Inline, ConfigFault> {
    let refuse = |option: &str, why: String| {
        ConfigFault::option(ConfigFaultKind::InvalidOption, option, format!("the value of option {option:?} is not what it takes: {why}"))
    };
    if let Some(sas) = options.text("azure_sas_token") {
        Sas::parse(sas).map_err(|why| refuse("azure_sas_token", why))?;
        return Ok(Inline::Sas(Zeroizing::new(sas.to_owned())));
    }
    if let Some(token) = options.text("azure_oauth_token") {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse("azure_oauth_token", "a token has only visible ASCII characters".to_owned()));
        }
        return Ok(Inline::Bearer(Zeroizing::new(token.to_owned())));
    }
    Ok(if options.flag("use_managed_credentials") { Inline::Managed } else { Inline::Nothing })
}

/// What the way to authenticate needs beside it.
fn missing(options: &Options, host: Option<&Host>) -> Vec<ConfigFault> {
    let missing = |option: &str, why: &str| ConfigFault::option(ConfigFaultKind::MissingOption, option, format!("option {option:?} is missing: {why}"));
    let managed = options.flag("use_managed_credentials");
    let inline = ["azure_sas_token", "azure_oauth_token"].into_iter().find(|way| options.text(way).is_some());
    let mut faults = Vec::new();
    if !managed && inline.is_none() && options.text("credential").is_none() {
        faults.push(missing(
            "credential",
            "nobody may write to Azure without one; name a credential, or give azure_sas_token, azure_oauth_token or use_managed_credentials=true",
        ));
    }
    if managed && options.text("azure_tenant_id").is_none() {
        faults.push(missing("azure_tenant_id", "use_managed_credentials needs the tenant beside it"));
    }
    let named = options.text("azure_storage_account_name").is_some() || host.and_then(account_of).is_some();
    if !named && (managed || inline.is_some()) {
        faults.push(missing("azure_storage_account_name", "nothing else names the storage account"));
    }
    faults
}
