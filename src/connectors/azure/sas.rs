//! Why: a shared access signature is looked at before it is used, so that one of a single container, or one that has ended, is named as such. Never shows it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use object_store::{
    CredentialProvider,
    azure::{AzureCredential, split_sas},
};

use crate::{
    clock::{Ambient, Timestamp},
    connectors::error::{ConnectorError, ConnectorErrorKind as Kind},
};

/// A shared access signature whose shape is right.
pub(super) struct Sas {
    pairs: Vec<(String, String)>,
    /// When it ends, as written.
    end: String,
    ends: Timestamp,
}

impl Sas {
    /// The parts of `text`. What is wrong with it, in words that repeat nothing of it but its permissions.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let shape = "a shared access signature looks like sv=…&ss=b&srt=co&sp=rwlc&se=…&sig=…";
        let pairs = split_sas(text.trim()).map_err(|_| shape.to_owned())?;
        let of = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
        if pairs.iter().any(|(key, _)| key.len() > 6 || !key.bytes().all(|byte| byte.is_ascii_alphanumeric())) || of("sig").is_none() || of("sv").is_none() {
            return Err(shape.to_owned());
        }
        let (Some(services), Some(types), Some(permissions)) = (of("ss"), of("srt"), of("sp")) else {
            return Err("it is not of the account (ss, srt) but of one container or object; make one of the account".to_owned());
        };
        let lacks = |given: &str, wanted: &str| wanted.chars().filter(|c| !given.contains(*c)).collect::<String>();
        for (name, given, wanted, why) in
            [("ss", services, "b", "blobs"), ("srt", types, "co", "containers and objects"), ("sp", permissions, "rl", "reading and listing")]
        {
            let lacking = lacks(given, wanted);
            if !lacking.is_empty() {
                return Err(format!("its {name} lacks {lacking:?}, which {why} need"));
            }
        }
        if !permissions.contains(['c', 'w']) {
            return Err("its sp lacks \"c\" or \"w\", which writing needs".to_owned());
        }
        let end = of("se").ok_or_else(|| "it has no end (se)".to_owned())?.to_owned();
        let ends = instant(&end).ok_or_else(|| "its end (se) is no time".to_owned())?;
        Ok(Self { pairs, end, ends })
    }

    /// Whether it has ended by now, as an error.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), ConnectorError> {
        if now < self.ends {
            return Ok(());
        }
        let message = format!("the shared access signature ended at {}; alter the credential, or the sink's option azure_sas_token", self.end);
        Err(ConnectorError::new(Kind::Unauthenticated, message).with("expired", self.end.clone()))
    }
}

/// The three ways in which Azure writes times.
fn instant(text: &str) -> Option<Timestamp> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        17 => format!("{}:00Z", text.strip_suffix('Z')?),
        _ => text.to_owned(),
    };
    let instant: jiff::Timestamp = full.parse().ok()?;
    Some(Timestamp::from_micros(instant.as_microsecond()))
}

/// Hands the signature out until it ends.
pub(super) struct SasProvider {
    credential: Arc<AzureCredential>,
    sas: Sas,
    ambient: Ambient,
}

impl SasProvider {
    pub(super) fn new(sas: Sas, ambient: Ambient) -> Self {
        Self { credential: Arc::new(AzureCredential::SASToken(sas.pairs.clone())), sas, ambient }
    }
}

impl fmt::Debug for SasProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SasProvider")
    }
}

#[async_trait]
impl CredentialProvider for SasProvider {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let ended = |fault| object_store::Error::Generic { store: "credential", source: Box::new(fault) };
        self.sas.check(self.ambient.now()).map_err(ended)?;
        Ok(self.credential.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "sv=2022-11-02&ss=b&srt=sco&sp=rwdlac&se=2026-12-01T00:00:00Z&st=2026-11-01T00:00:00Z&spr=https&sig=abc%2Bdef%3D";

    #[test]
    fn the_shape_of_an_account_signature_is_known() {
        let sas = Sas::parse(GOOD).expect("a signature");
        assert!(sas.pairs.contains(&("sig".to_owned(), "abc+def=".to_owned())));
        assert!(Sas::parse(&format!("?{GOOD}")).is_ok());
        let table = [
            ("nonsense", "looks like"),
            ("", "looks like"),
            ("sig=x&sr=c&sp=rw&se=2026-12-01&sv=2022-11-02", "of one container"),
            ("sv=2&ss=q&srt=sco&sp=rwlc&se=2026-12-01&sig=x", "ss lacks \"b\""),
            ("sv=2&ss=b&srt=o&sp=rwlc&se=2026-12-01&sig=x", "srt lacks \"c\""),
            ("sv=2&ss=b&srt=co&sp=wc&se=2026-12-01&sig=x", "sp lacks \"rl\""),
            ("sv=2&ss=b&srt=co&sp=rl&se=2026-12-01&sig=x", "writing"),
            ("sv=2&ss=b&srt=co&sp=rlc&sig=x", "no end"),
            ("sv=2&ss=b&srt=co&sp=rlc&se=soon&sig=x", "no time"),
        ];
        for (text, part) in table {
            let fault = Sas::parse(text).err().unwrap_or_default();
            assert!(fault.contains(part), "{text}: {fault:?}");
        }
    }

    #[test]
    fn its_end_is_known_in_every_spelling() {
        for end in ["2026-01-01", "2026-01-01T00:00Z", "2026-01-01T00:00:00Z"] {
            let sas = Sas::parse(&format!("sv=2&ss=b&srt=co&sp=rlc&se={end}&sig=s3cr3t")).expect("a signature");
            let at = |micros: i64| sas.check(Timestamp::from_micros(micros));
            assert!(at(1_767_225_599_999_999).is_ok(), "{end}");
            let ended = at(1_767_225_600_000_000).expect_err("ended");
            assert_eq!(ended.kind, Kind::Unauthenticated);
            assert!(ended.message.contains(end) && !ended.message.contains("s3cr3t"), "{}", ended.message);
        }
    }
}
