//! Why: access tokens are what scripts and services call with. Never stored themselves, only their hash, and shown once.

use std::{fmt, io, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    Caller, Domain, IdentitySource, OpContext,
    access::{ADMIN, Need, ObjectType, Permission, decide},
    catalog::{self, Effect, Permit, Row, TOKENS},
    change,
    page::Page,
    principal::{PrincipalKind, PrincipalRow, need_over, parse_principal, principal_not_found},
};
use crate::{
    clock::{Ids, Timestamp},
    limits,
    name::PrincipalName,
    problem::{Problem, Reason},
    secret::Secret,
    store::{Table, Transaction},
};

/// A bearer token as stored: never the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenView {
    /// The part that may be logged.
    pub id: String,
    /// Whose it is.
    pub principal: PrincipalName,
    /// What it is for, in its maker's words.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// To the minute.
    pub last_used: Option<Timestamp>,
}

/// Makes a bearer token for a user.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CreateAccessToken {
    pub principal: String,
    pub description: String,
    /// `None`: 90 days.
    pub ttl: Option<Duration>,
    pub request_id: String,
}

/// The answer to [`CreateAccessToken`].
#[derive(Serialize, Deserialize)]
pub struct CreatedAccessToken {
    /// The entry.
    pub access_token: AccessTokenView,
    /// The token itself, this once; `None` for a repeated `request_id`.
    #[serde(skip)]
    pub token: Option<Secret>,
}

impl fmt::Debug for CreatedAccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedAccessToken").field("access_token", &self.access_token).finish_non_exhaustive()
    }
}

/// Ends a token.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokeAccessToken {
    pub id: String,
    pub if_exists: bool,
    pub request_id: String,
}

/// The answer to [`RevokeAccessToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedAccessToken {
    /// False where `if_exists` found none.
    pub revoked: bool,
}

/// Asks for tokens.
#[derive(Debug, Clone, Default)]
pub struct ShowAccessToken {
    /// Empty: the caller's own; `*`: all that the caller may see.
    pub principal: String,
    /// Which part of the list.
    pub page: Page,
}

/// The answer to [`ShowAccessToken`].
#[derive(Debug, Clone, Default)]
pub struct ShownAccessTokens {
    /// By id.
    pub access_tokens: Vec<AccessTokenView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A token as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TokenRow {
    pub id: String,
    pub principal: PrincipalName,
    pub description: String,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub last_used: Option<Timestamp>,
    /// SHA-256 of the whole token: its 32 random bytes need no slow hash.
    pub hash: [u8; 32],
}

impl Row for TokenRow {
    const TABLE: Table = TOKENS;
}

impl TokenRow {
    fn view(&self) -> AccessTokenView {
        AccessTokenView {
            id: self.id.clone(),
            principal: self.principal.clone(),
            description: self.description.clone(),
            created: self.created,
            expires: self.expires,
            last_used: self.last_used,
        }
    }
}

const PREFIX: &str = "dsk";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_BYTES: usize = 9;
const SECRET_BYTES: usize = 32;
/// How exact "last used" is.
const LAST_USED_STEP: Duration = Duration::from_secs(60);
/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1_000;

/// Bytes as digits and letters, most significant first.
fn base62(bytes: &[u8]) -> Zeroizing<String> {
    let mut number = Zeroizing::new(bytes.to_vec());
    // Five bits a digit never need more room, so no copy is left behind by growing.
    let mut digits = Zeroizing::new(Vec::with_capacity((bytes.len() * 8).div_ceil(5)));
    while number.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u32;
        for byte in number.iter_mut() {
            let value = rest * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("the rest is below 62, so the quotient is below 256");
            rest = value % 62;
        }
        digits.push(DIGITS[rest as usize]);
    }
    Zeroizing::new(digits.iter().rev().map(|digit| char::from(*digit)).collect())
}

/// A new token: its id and the whole text, `dsk_<id>_<secret>_<crc>`.
fn make(ids: &dyn Ids) -> (String, Secret) {
    let mut id = [0; ID_BYTES];
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    ids.fill(&mut id);
    ids.fill(&mut *secret);
    let id = base62(&id).to_string();
    let body = Zeroizing::new(format!("{PREFIX}_{id}_{}", *base62(&*secret)));
    let token = format!("{}_{:08x}", *body, crc32c::crc32c(body.as_bytes()));
    (id, Secret::from(token))
}

/// The id of a token whose checksum holds: a typing error needs no look-up.
fn id_of(token: &str) -> Option<&str> {
    let (body, crc) = token.rsplit_once('_')?;
    let mut parts = body.split('_');
    let (PREFIX, Some(id), Some(_), None) = (parts.next()?, parts.next(), parts.next(), parts.next()) else { return None };
    (format!("{:08x}", crc32c::crc32c(body.as_bytes())) == crc).then_some(id)
}

fn hash(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose()).into()
}

fn token_not_found(id: &str) -> Problem {
    Problem::new(Reason::AccessTokenNotFound, format!("there is no access token {id}")).with("name", id).resource("access token", id)
}

impl Domain {
    /// The user a bearer token proves, if it proves one.
    pub(super) async fn by_token(&self, token: &Secret) -> Result<Option<Caller>, Problem> {
        let Some(id) = token.expose_text().and_then(id_of) else { return Ok(None) };
        let Some(bytes) = self.0.store.get(TOKENS, id.as_bytes()).await.map_err(catalog::store_problem)? else { return Ok(None) };
        let row: TokenRow = catalog::decode(TOKENS, &bytes)?;
        let now = self.0.ambient.now();
        if !bool::from(row.hash.ct_eq(&hash(token))) || now >= row.expires {
            return Ok(None);
        }
        let principal: Option<PrincipalRow> = self.row(row.principal.as_str().as_bytes()).await?;
        if principal.is_none_or(|principal| principal.disabled) {
            return Ok(None);
        }
        if row.last_used.is_none_or(|used| now.since(used) >= LAST_USED_STEP) {
            let used = TokenRow { last_used: Some(now), ..row.clone() };
            let note = Transaction::new().expect(TOKENS, id, Some(bytes)).put(TOKENS, id, catalog::encode(&used)?);
            // A convenience: a call is not refused because the note could not be made.
            if let Err(error) = self.0.store.transact(note).await {
                tracing::debug!(%error, "the last use of a token was not noted");
            }
        }
        Ok(Some(Caller { principal: row.principal, source: IdentitySource::Token, identity: row.id, expires: Some(row.expires) }))
    }

    /// Whether `admin` has no way in: no token that still holds, no password, no identity. Then [`Domain::bootstrap_token`] makes one.
    pub async fn needs_bootstrap(&self) -> Result<bool, Problem> {
        let now = self.0.ambient.now();
        let admin: Option<PrincipalRow> = self.row(ADMIN.as_bytes()).await?;
        if admin.is_some_and(|row| row.password.is_some() || !row.identities.is_empty()) {
            return Ok(false);
        }
        for (_, bytes) in catalog::scan_all(&*self.0.store, TOKENS, b"").await? {
            let row: TokenRow = catalog::decode(TOKENS, &bytes)?;
            if row.principal.as_str() == ADMIN && row.expires > now {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a token for `admin`. `keep` writes it where its owner finds it, before it becomes valid: a crash in between leaves a file with a token that opens nothing,
    /// and the next start makes another.
    pub async fn bootstrap_token(&self, keep: impl FnOnce(&Secret) -> io::Result<()>) -> Result<AccessTokenView, Problem> {
        let (id, token) = make(&*self.0.ambient.ids);
        keep(&token).map_err(|fault| Problem::new(Reason::StoreUnavailable, format!("the bootstrap token cannot be written: {fault}")))?;
        let created = self.0.ambient.now();
        let principal = PrincipalName::parse(ADMIN).expect("a principal's name");
        let row = TokenRow {
            id: id.clone(),
            principal,
            description: "bootstrap".to_owned(),
            created,
            expires: created.plus(limits::ACCESS_TOKEN_TTL_MAX),
            last_used: None,
            hash: hash(&token),
        };
        let transaction = Transaction::new().absent(TOKENS, id.as_bytes()).put(TOKENS, id.as_bytes(), catalog::encode(&row)?);
        self.0.store.transact(transaction).await.map_err(catalog::store_problem)?;
        Ok(row.view())
    }

    /// Makes a bearer token.
    pub async fn create_access_token(&self, cx: &OpContext, request: CreateAccessToken) -> Result<CreatedAccessToken, Problem> {
        let principal = if request.principal.is_empty() { cx.caller.principal.clone() } else { parse_principal("principal", &request.principal)? };
        let ttl = request.ttl.unwrap_or(limits::ACCESS_TOKEN_TTL);
        let mut faults = Vec::new();
        if ttl.is_zero() || ttl > limits::ACCESS_TOKEN_TTL_MAX {
            let message = format!("a token lives more than zero and at most {} days", limits::ACCESS_TOKEN_TTL_MAX.as_secs() / 86_400);
            faults.push(Problem::field("ttl", Reason::InvalidField, message));
        }
        if request.description.len() > DESCRIPTION_BYTES_MAX {
            let message = format!("the description has at most {DESCRIPTION_BYTES_MAX} bytes");
            faults.push(Problem::field("description", Reason::InvalidField, message));
        }
        if let Some(problem) = Problem::all(faults) {
            return Err(problem);
        }
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        let (id, token) = make(&*self.0.ambient.ids);
        let answer: Result<CreatedAccessToken, Problem> = change!(self, cx, ticket, false, |draft| {
            let permit = self.permit_tokens_of(cx, &principal).await?;
            draft.permits.push(permit);
            match draft.get::<PrincipalRow>(principal.as_str().as_bytes()).await? {
                Some(row) if row.kind == PrincipalKind::User => {}
                Some(_) => return Err(Problem::field("principal", Reason::InvalidField, format!("{principal} is a role; tokens are for users"))),
                None => return Err(principal_not_found(&principal)),
            }
            let created = self.0.ambient.now();
            let row = TokenRow {
                id: id.clone(),
                principal: principal.clone(),
                description: request.description.clone(),
                created,
                expires: created.plus(ttl),
                last_used: None,
                hash: hash(&token),
            };
            draft.get::<TokenRow>(id.as_bytes()).await?;
            draft.put(id.as_bytes().to_vec(), &row)?;
            CreatedAccessToken { access_token: row.view(), token: None }
        });
        // A replayed answer is another token's entry and comes without the token.
        answer.map(|answer| if answer.access_token.id == id { CreatedAccessToken { token: Some(token), ..answer } } else { answer })
    }

    /// Ends a bearer token; sessions that came with it end with it.
    pub async fn revoke_access_token(&self, cx: &OpContext, request: RevokeAccessToken) -> Result<RevokedAccessToken, Problem> {
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let row = draft.get::<TokenRow>(request.id.as_bytes()).await?;
            let permit = match &row {
                Some(row) => self.permit_tokens_of(cx, &row.principal).await?,
                None => self.permit(cx, &Need::system(Permission::UserAdmin), &request.id).await?,
            };
            draft.permits.push(Permit { object: request.id.clone(), ..permit });
            match row {
                Some(_) => {
                    draft.delete(TOKENS, request.id.clone().into_bytes());
                    draft.effects.push(Effect::TokenEnded(request.id.clone()));
                    RevokedAccessToken { revoked: true }
                }
                None if request.if_exists => RevokedAccessToken { revoked: false },
                None => return Err(token_not_found(&request.id)),
            }
        })
    }

    /// Shows tokens, never a token itself.
    pub async fn show_access_token(&self, cx: &OpContext, request: ShowAccessToken) -> Result<ShownAccessTokens, Problem> {
        self.refresh_rights().await?;
        let caller = &cx.caller.principal;
        let all = self.with_rights(|rights| decide(rights, caller, &Need::system(Permission::UserAdmin)).allowed());
        let of = match request.principal.as_str() {
            "" => Some(caller.clone()),
            "*" => (!all).then(|| caller.clone()),
            name => Some(parse_principal("principal", name)?),
        };
        if !all && of.as_ref().is_some_and(|of| of != caller) {
            self.permit(cx, &Need::system(Permission::UserAdmin), &request.principal).await?;
        }
        let page = request.page.open(&self.0.keys, &("tokens", caller, &of))?;
        let (access_tokens, next_page_token) = self
            .fill(TOKENS, b"", &page, |_, bytes| {
                let row: TokenRow = catalog::decode(TOKENS, &bytes)?;
                Ok(of.as_ref().is_none_or(|of| *of == row.principal).then(|| row.view()))
            })
            .await?;
        Ok(ShownAccessTokens { access_tokens, next_page_token })
    }

    /// One's own tokens need no right; those of others what changing those others needs.
    async fn permit_tokens_of(&self, cx: &OpContext, principal: &PrincipalName) -> Result<Permit, Problem> {
        let (enabled, need) = self.with_rights(|rights| (!rights.roles_of(&cx.caller.principal).is_empty(), need_over(rights, principal)));
        if cx.caller.principal == *principal && enabled {
            let object = principal.to_string();
            return Ok(Permit { object_type: ObjectType::System, object, permission: Permission::UserAdmin, rule: "own".to_owned() });
        }
        self.permit(cx, &need, principal).await
    }

    /// Ends the sessions that were opened with a token that is no more.
    pub(super) fn end_sessions_of_token(&self, id: &str) {
        let streams: Vec<_> = {
            let mut opened = self.0.opened_with.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let streams = opened.iter().filter(|(_, token)| *token == id).map(|(stream, _)| stream.clone()).collect();
            opened.retain(|_, token| token != id);
            streams
        };
        for stream in streams {
            let problem = Problem::new(Reason::Unauthenticated, "the access token that opened this session was revoked").with("scheme", "bearer");
            self.0.sessions.direct(&crate::delivery::Which::Stream(stream), crate::delivery::Directive::Stop(problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SystemIds;

    #[test]
    fn tokens_have_their_shape_and_their_checksum() {
        let (id, token) = make(&SystemIds);
        let text = token.expose_text().expect("ASCII");
        assert!(text.starts_with(&format!("dsk_{id}_")));
        assert_eq!(id_of(text), Some(id.as_str()));
        for at in 0..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(id_of(std::str::from_utf8(&typo).expect("ASCII")), None, "a typing error at {at}");
        }
        for wrong in ["", "dsk", "dsk_a_b", "dsk_a_b_c_d", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(id_of(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn base62_tells_numbers_apart(a: [u8; 32], b: [u8; 32]) {
            prop_assert_eq!(a == b, *base62(&a) == *base62(&b));
            prop_assert!(base62(&a).len() <= 43 && base62(&a).bytes().all(|c| c.is_ascii_alphanumeric()));
        }
    }
}
