//! Why: a password is checked slowly by design, and that slowness must neither exhaust this server nor tell which users exist. Never keeps a password.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use tokio::{sync::Semaphore, time::Instant};

use super::PasswordCost;
use crate::{
    clock::Ids,
    problem::{Problem, Reason},
    secret::Secret,
};

/// How long a password that was right needs no new check.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many right ones are remembered.
const REMEMBERED_MAX: u64 = 10_000;
/// How many accounts and addresses are watched for wrong ones.
const WATCHED_MAX: usize = 10_000;
/// Wrong ones in a row that cost nothing: people mistype.
const FREE_FAILURES: u32 = 5;
/// The first and the longest pause after more than that.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Checks passwords.
pub(super) struct Passwords {
    cost: PasswordCost,
    at_once: Arc<Semaphore>,
    /// A keyed hash of user, stored hash and password, for each that was right lately.
    remembered: moka::sync::Cache<[u8; 32], ()>,
    failures: Mutex<HashMap<String, Failures>>,
    /// What unknown users are checked against, so that they take as long.
    dummy: Mutex<Option<Arc<str>>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    until: Instant,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    pub(super) fn new(cost: PasswordCost) -> Self {
        Self {
            cost,
            at_once: Arc::new(Semaphore::new(cost.at_once.max(1))),
            remembered: moka::sync::Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(REMEMBERED).build(),
            failures: Mutex::default(),
            dummy: Mutex::default(),
        }
    }

    /// What is stored of a password: its Argon2id hash with its salt and cost.
    pub(super) async fn hash(&self, ids: &dyn Ids, password: &Secret) -> Result<String, Problem> {
        let mut salt = [0; 16];
        ids.fill(&mut salt);
        let argon = self.argon();
        let password = Secret::new(password.expose().to_vec());
        self.slowly(move || {
            let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
            argon.hash_password(password.expose(), &salt).map(|hash| hash.to_string())
        })
        .await?
        .map_err(|fault| Problem::new(Reason::InvalidField, format!("the password cannot be hashed: {fault}")))
    }

    /// Whether `password` is the one that `stored` was made from. `None` stands for a user who is not there or has no password: it takes as long and is wrong.
    pub(super) async fn verify(&self, ids: &dyn Ids, proof: [u8; 32], stored: Option<&str>, password: &Secret) -> Result<bool, Problem> {
        if stored.is_some() && self.remembered.contains_key(&proof) {
            return Ok(true);
        }
        let against: Arc<str> = match stored {
            Some(stored) => stored.into(),
            None => self.dummy(ids).await?,
        };
        let argon = self.argon();
        let password = Secret::new(password.expose().to_vec());
        let right = self.slowly(move || PasswordHash::new(&against).is_ok_and(|hash| argon.verify_password(password.expose(), &hash).is_ok())).await?;
        let right = right && stored.is_some();
        if right {
            self.remembered.insert(proof, ());
        }
        Ok(right)
    }

    /// Refuses while one of `watched` (an account, an address) has to wait after wrong passwords.
    pub(super) fn check_pause(&self, watched: &[String]) -> Result<(), Problem> {
        let now = Instant::now();
        let failures = self.failures();
        let wait = watched.iter().filter_map(|key| failures.get(key)).map(|known| known.until.saturating_duration_since(now)).max().unwrap_or_default();
        if wait.is_zero() {
            return Ok(());
        }
        Err(Problem::new(Reason::RateLimited, "too many wrong passwords from here or for this user; wait before the next try")
            .with("limit", FREE_FAILURES.to_string())
            .with("window", format!("{}s", PAUSE_MAX.as_secs()))
            .retry_after(wait))
    }

    /// Notes a wrong password.
    pub(super) fn failed(&self, watched: &[String]) {
        let now = Instant::now();
        let mut failures = self.failures();
        if failures.len() >= WATCHED_MAX {
            failures.retain(|_, known| known.until + PAUSE_MAX > now);
        }
        for key in watched {
            if failures.len() >= WATCHED_MAX && !failures.contains_key(key) {
                continue;
            }
            let known = failures.entry(key.clone()).or_insert(Failures { count: 0, until: now });
            known.count = known.count.saturating_add(1);
            let doublings = known.count.saturating_sub(FREE_FAILURES);
            if doublings > 0 {
                known.until = now + PAUSE_MIN.saturating_mul(1 << (doublings - 1).min(6)).min(PAUSE_MAX);
            }
        }
    }

    /// Forgets the account's wrong ones after a right one. The address keeps its own: one known password must not buy guesses at others.
    pub(super) fn succeeded(&self, account: &str) {
        self.failures().remove(account);
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn argon(&self) -> Argon2<'static> {
        // Out-of-range settings fall back to the library's own, which are in range.
        let params = Params::new(self.cost.memory_kib, self.cost.passes, 1, None).unwrap_or_default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    }

    async fn dummy(&self, ids: &dyn Ids) -> Result<Arc<str>, Problem> {
        if let Some(known) = self.dummy.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(known);
        }
        let mut nobody = vec![0; 16];
        ids.fill(&mut nobody);
        let made: Arc<str> = self.hash(ids, &Secret::new(nobody)).await?.into();
        *self.dummy.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        Ok(made)
    }

    /// Runs a check off the async threads, a bounded number at once.
    async fn slowly<R: Send + 'static>(&self, check: impl FnOnce() -> R + Send + 'static) -> Result<R, Problem> {
        let _place = self.at_once.clone().acquire_owned().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(check).await.map_err(|_| Problem::new(Reason::Internal, "a password check broke off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemIds;

    fn passwords() -> Passwords {
        Passwords::new(PasswordCost { memory_kib: 64, passes: 1, at_once: 2 })
    }

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_is_right_and_nobodys_is() {
        let passwords = passwords();
        let stored = passwords.hash(&SystemIds, &secret("open")).await.expect("hashed");
        assert!(stored.starts_with("$argon2id$") && !stored.contains("open"));
        assert!(passwords.verify(&SystemIds, [1; 32], Some(&stored), &secret("open")).await.expect("checked"));
        assert!(passwords.verify(&SystemIds, [1; 32], Some(&stored), &secret("open")).await.expect("remembered"));
        assert!(!passwords.verify(&SystemIds, [2; 32], Some(&stored), &secret("Open")).await.expect("checked"));
        assert!(!passwords.verify(&SystemIds, [1; 32], None, &secret("open")).await.expect("checked"), "a remembered proof helps nobody who is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_bring_growing_pauses() {
        let passwords = passwords();
        let watched = ["user alice".to_owned(), "peer 10.0.0.1".to_owned()];
        for _ in 0..FREE_FAILURES {
            passwords.failed(&watched);
            passwords.check_pause(&watched).expect("people mistype");
        }
        passwords.failed(&watched);
        let first = passwords.check_pause(&watched[..1]).expect_err("a pause").retry_after.expect("how long");
        tokio::time::advance(first).await;
        passwords.check_pause(&watched).expect("over");
        passwords.failed(&watched);
        let second = passwords.check_pause(&watched[1..]).expect_err("a pause").retry_after.expect("how long");
        assert!(second > first && second <= PAUSE_MAX);
        passwords.succeeded(&watched[0]);
        passwords.check_pause(&watched[..1]).expect("the account is free again");
        passwords.check_pause(&watched[1..]).expect_err("the address is not");
    }
}
