//! Why: the generated interface is included once, here, with a `Debug` that cannot show a secret. Never edit or imitate a generated message elsewhere.

#![allow(missing_docs, reason = "generated from proto/, where the comments are")]
#![allow(clippy::large_enum_variant, clippy::large_futures, clippy::doc_markdown, clippy::allow_attributes_without_reason, reason = "generated code")]

use std::fmt;

tonic::include_proto!("datasink.v1");

/// Every descriptor of the interface, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/datasink_descriptor.bin"));

/// Stands for a secret in a `Debug`: whether there is one, never what it is.
struct Redacted(bool);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "***" } else { "unset" })
    }
}

/// A map whose values may be secrets: shows its keys.
struct Keys<'a>(&'a std::collections::HashMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, Redacted(true)))).finish()
    }
}

/// `Debug` that shows the listed fields as they are, the listed maps by their keys, and nothing else.
macro_rules! redacting_debug {
    ($message:ident { shown: [$($shown:ident),*], keys: [$($keys:ident),*], hidden: [$($hidden:ident => $is_set:expr),*] }) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = f.debug_struct(stringify!($message));
                $(out.field(stringify!($shown), &self.$shown);)*
                $(out.field(stringify!($keys), &Keys(&self.$keys));)*
                $({
                    let is_set: fn(&Self) -> bool = $is_set;
                    out.field(stringify!($hidden), &Redacted(is_set(self)));
                })*
                out.finish_non_exhaustive()
            }
        }
    };
}

// Destinations are hidden whole: a URL may carry a user and a password.
redacting_debug!(CreateCredentialRequest { shown: [name, r#type, identity, validate_only], keys: [options], hidden: [secret_source => |m| m.secret_source.is_some()] });
redacting_debug!(AlterCredentialRequest { shown: [name, r#type, identity, unset, validate_only], keys: [updates], hidden: [secret_source => |m| m.secret_source.is_some()] });
redacting_debug!(CreatePrincipalRequest { shown: [name, kind, identities, default_schema], keys: [], hidden: [password => |m| !m.password.is_empty()] });
redacting_debug!(AlterPrincipalRequest { shown: [name, add_identities, remove_identities, disabled], keys: [], hidden: [password => |m| m.password.is_some()] });
redacting_debug!(CreateAccessTokenResponse { shown: [access_token], keys: [], hidden: [token => |m| !m.token.is_empty()] });
redacting_debug!(CreateDataSinkRequest { shown: [name, or_replace, if_not_exists, validate_only], keys: [options], hidden: [destination => |m| !m.destination.is_empty()] });
redacting_debug!(AlterDataSinkRequest { shown: [name, unset, validate_only], keys: [updates], hidden: [] });
redacting_debug!(TestDataSinkRequest { shown: [name, write_probe], keys: [options], hidden: [destination => |m| !m.destination.is_empty()] });
redacting_debug!(OpenStream { shown: [data_sink, stream, client_id, takeover], keys: [options], hidden: [dead_letter_sink => |m| !m.dead_letter_sink.is_empty()] });
redacting_debug!(PushOnceRequest { shown: [data_sink, stream, validate_only], keys: [options], hidden: [batch => |m| m.batch.is_some()] });
redacting_debug!(ExecuteSqlRequest { shown: [default_schema, validate_only], keys: [], hidden: [sql => |m| !m.sql.is_empty()] });

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-7f3a";

    fn map() -> std::collections::HashMap<String, String> {
        [("sasl.password".to_owned(), CANARY.to_owned())].into()
    }

    #[test]
    fn no_message_with_a_secret_shows_it() {
        let secret = || CANARY.to_owned();
        let url = || format!("https://user:{CANARY}@host/");
        let shown = [
            format!(
                "{:?}",
                CreateCredentialRequest {
                    secret_source: Some(create_credential_request::SecretSource::Secret(secret())),
                    options: map(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                AlterCredentialRequest { secret_source: Some(alter_credential_request::SecretSource::Secret(secret())), updates: map(), ..Default::default() }
            ),
            format!("{:?}", CreatePrincipalRequest { password: secret(), ..Default::default() }),
            format!("{:?}", AlterPrincipalRequest { password: Some(secret()), ..Default::default() }),
            format!("{:?}", CreateAccessTokenResponse { token: secret(), ..Default::default() }),
            format!("{:?}", CreateDataSinkRequest { destination: url(), options: map(), ..Default::default() }),
            format!("{:?}", AlterDataSinkRequest { updates: map(), ..Default::default() }),
            format!("{:?}", TestDataSinkRequest { destination: url(), options: map(), ..Default::default() }),
            format!("{:?}", OpenStream { options: map(), dead_letter_sink: url(), ..Default::default() }),
            format!("{:?}", PushRequest { frame: Some(push_request::Frame::Open(OpenStream { options: map(), ..Default::default() })) }),
            format!("{:?}", PushOnceRequest { options: map(), ..Default::default() }),
            format!("{:?}", ExecuteSqlRequest { sql: secret(), ..Default::default() }),
        ];
        for text in shown {
            assert!(!text.contains(CANARY), "{text}");
        }
    }
}
