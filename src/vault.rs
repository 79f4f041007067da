//! Why: secrets at rest are sealed under a key of their own and bound to the object they belong to. Never writes a secret or a key anywhere unsealed, and never offers a way to do without.

use std::{
    fmt, fs, io,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aes_gcm_siv::{
    Aes256GcmSiv, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{clock::Ids, name::Name, secret::Secret};

/// Bytes of every key, and nothing else is taken for one.
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// The largest key ring file that is read; a line has about 110 bytes.
const KEY_RING_BYTES_MAX: u64 = 64 << 10;
const KEY_ID_CHARS_MAX: usize = 64;
/// What a payload and a wrapped key are bound to besides their object, so that neither passes for the other.
const PAYLOAD_LABEL: &[u8] = b"datasink-secret-v1";
const WRAP_LABEL: &[u8] = b"datasink-key-v1";
const FINGERPRINT_LABEL: &[u8] = b"datasink-fingerprint-v1";

/// Why the vault cannot do what was asked. Says nothing about a secret or a key.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each is")]
pub enum VaultError {
    #[error("the key ring {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the key ring {} cannot be created: {source}", path.display())]
    NotCreated { path: PathBuf, source: io::Error },
    #[error("the key ring {} is missing; restore it from its backup, because what is sealed under its keys cannot be opened without it", path.display())]
    Missing { path: PathBuf },
    #[error("the key ring {} has mode {mode:04o}, so that others than its owner can read or change it; set it to 0400 or 0600", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("the key ring {} is not an ordinary file of at most {KEY_RING_BYTES_MAX} bytes", path.display())]
    NotAFile { path: PathBuf },
    #[error("key {number} of the key ring is not usable: {rule}")]
    BadKey { number: usize, rule: String },
    #[error("the key ring has no key; it needs at least one line \"id:base64 of {KEY_BYTES} bytes\"")]
    Empty,
    #[error("a secret is sealed under key {key:?}, which is not in the key ring; put that key back")]
    UnknownKey { key: String },
    #[error("a sealed secret does not open as {what}: it belongs to another object or version, or was changed; set it again")]
    DoesNotOpen { what: String },
}

/// The keys that keys are wrapped with; the first one is used for whatever is sealed from now on.
pub struct KeyRing(Vec<Key>);

struct Key {
    id: String,
    bytes: Secret,
}

/// Where a key ring comes from.
#[derive(Debug)]
pub enum KeySource {
    /// A file that only its owner can read (mode 0400 or 0600).
    File {
        /// Its path.
        path: PathBuf,
        /// Whether to make it, with one random key, where it is absent: only when the data directory is new.
        create: bool,
    },
    /// A value from the environment, lines separated by newlines or commas. The caller removes the variable.
    Text(Secret),
}

impl KeyRing {
    /// Reads the ring from `source`.
    pub fn load(source: &KeySource, ids: &dyn Ids) -> Result<Self, VaultError> {
        match source {
            KeySource::Text(text) => Self::parse(text),
            KeySource::File { path, create } => match fs::File::open(path) {
                Ok(file) => Self::read(path, file),
                Err(fault) if fault.kind() == io::ErrorKind::NotFound && *create => Self::create(path, ids),
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => Err(VaultError::Missing { path: path.clone() }),
                Err(source) => Err(VaultError::Unreadable { path: path.clone(), source }),
            },
        }
    }

    /// The id of the key that is used from now on.
    pub fn primary_id(&self) -> &str {
        &self.primary().id
    }

    fn read(path: &Path, file: fs::File) -> Result<Self, VaultError> {
        let unreadable = |source| VaultError::Unreadable { path: path.to_owned(), source };
        // Asked of the open file, so that it cannot be exchanged in between. Whoever could open a file of such a mode owns it, or is root.
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() || about.len() > KEY_RING_BYTES_MAX {
            return Err(VaultError::NotAFile { path: path.to_owned() });
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::TooOpen { path: path.to_owned(), mode });
        }
        // The buffer is made large enough at once: one that grew would leave copies behind.
        let mut bytes = Vec::with_capacity(KEY_RING_BYTES_MAX as usize + 1);
        file.take(KEY_RING_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::parse(&Secret::new(bytes))
    }

    fn create(path: &Path, ids: &dyn Ids) -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        ids.fill(&mut *bytes);
        let id = format!("key-{}", ids.uuid().simple());
        let line = Zeroizing::new(format!("{id}:{}\n", *Zeroizing::new(STANDARD.encode(*bytes))));
        write_durably(path, line.as_bytes()).map_err(|source| VaultError::NotCreated { path: path.to_owned(), source })?;
        Ok(Self(vec![Key { id, bytes: Secret::new(bytes.to_vec()) }]))
    }

    fn parse(text: &Secret) -> Result<Self, VaultError> {
        let text = text.expose_text().ok_or_else(|| VaultError::BadKey { number: 1, rule: "the ring is not UTF-8 text".to_owned() })?;
        let lines = text.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in lines.enumerate() {
            let key =
                Key::parse(line).and_then(|key| if keys.iter().any(|other| other.id == key.id) { Err("its id is there twice".to_owned()) } else { Ok(key) });
            keys.push(key.map_err(|rule| VaultError::BadKey { number: index + 1, rule })?);
        }
        if keys.is_empty() { Err(VaultError::Empty) } else { Ok(Self(keys)) }
    }

    fn primary(&self) -> &Key {
        &self.0[0]
    }

    fn get(&self, id: &str) -> Result<&Key, VaultError> {
        self.0.iter().find(|key| key.id == id).ok_or_else(|| VaultError::UnknownKey { key: id.chars().take(KEY_ID_CHARS_MAX).collect() })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    /// One `id:base64`; a fault never repeats the line, which may hold a key.
    fn parse(line: &str) -> Result<Self, String> {
        let (id, encoded) = line.split_once(':').ok_or_else(|| "it has no \":\"; write id:base64".to_owned())?;
        if id.is_empty() || id.len() > KEY_ID_CHARS_MAX || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(format!("its id must be 1 to {KEY_ID_CHARS_MAX} letters, digits, \"-\" or \"_\""));
        }
        let bytes = Secret::from_base64(encoded.trim()).ok_or_else(|| "what follows its id is not base64".to_owned())?;
        // Never padded, never cut: a short key would look like encryption and be none.
        if bytes.len() != KEY_BYTES {
            return Err(format!("it has {} bytes and must have exactly {KEY_BYTES}", bytes.len()));
        }
        Ok(Self { id: id.to_owned(), bytes })
    }
}

/// Writes a new file that only its owner can read, and returns once it would survive a power cut.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// What a sealed secret belongs to. It opens only as exactly this: not in another row, not under another name, not as an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// This installation.
    pub cluster: Uuid,
    /// The object's schema.
    pub schema: &'a Name,
    /// The object's name in its schema.
    pub name: &'a Name,
    /// The object's id.
    pub object_id: Uuid,
    /// The secret's version.
    pub version: u64,
    /// What the secret is: the credential's type and field, `sink.destination`, …
    pub kind: &'a str,
}

impl SealContext<'_> {
    /// The bytes a ciphertext is bound to: every field with its length, so that no two contexts give the same bytes.
    fn bound(&self, label: &[u8], key_id: &str) -> Vec<u8> {
        let version = self.version.to_be_bytes();
        let fields: [&[u8]; 8] = [
            label,
            self.cluster.as_bytes(),
            self.schema.as_str().as_bytes(),
            self.name.as_str().as_bytes(),
            self.object_id.as_bytes(),
            &version,
            self.kind.as_bytes(),
            key_id.as_bytes(),
        ];
        fields.iter().flat_map(|field| (field.len() as u64).to_be_bytes().into_iter().chain(field.iter().copied())).collect()
    }

    fn does_not_open(&self) -> VaultError {
        VaultError::DoesNotOpen { what: format!("{} of {}.{}, version {}", self.kind, self.schema, self.name, self.version) }
    }
}

/// A sealed secret, as it is stored. Nothing in it leads to the plaintext without the vault.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key that wraps this secret's own key.
    key_id: String,
    #[serde(with = "as_base64")]
    wrap_nonce: Vec<u8>,
    #[serde(with = "as_base64")]
    wrapped_key: Vec<u8>,
    #[serde(with = "as_base64")]
    nonce: Vec<u8>,
    #[serde(with = "as_base64")]
    ciphertext: Vec<u8>,
}

impl Sealed {
    /// The id of the key of the ring that it needs: a key that rows name cannot be retired.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(under {:?})", self.key_id)
    }
}

/// Byte strings as base64 text, whatever the format around them.
mod as_base64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// Seals and opens secrets under a key ring.
#[derive(Debug)]
pub struct Vault {
    ring: KeyRing,
}

impl Vault {
    /// A vault over `ring`.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring }
    }

    /// The id of the key that wraps from now on; a [`Sealed`] under another one wants [`Vault::rewrap`].
    pub fn primary_key_id(&self) -> &str {
        self.ring.primary_id()
    }

    /// Seals `secret` for `context` under a fresh key of its own.
    pub fn seal(&self, ids: &dyn Ids, context: &SealContext<'_>, secret: &Secret) -> Sealed {
        let mut own_key = Zeroizing::new([0; KEY_BYTES]);
        ids.fill(&mut *own_key);
        let nonce = random_nonce(ids);
        // The payload is not bound to the wrapping key's id, so that a rotation wraps anew and leaves the payload alone.
        let ciphertext = encrypt(&*own_key, &nonce, secret.expose(), &context.bound(PAYLOAD_LABEL, ""));
        self.wrap(ids, context, &*own_key, nonce.to_vec(), ciphertext)
    }

    /// Opens what was sealed for exactly this `context`.
    pub fn open(&self, context: &SealContext<'_>, sealed: &Sealed) -> Result<Secret, VaultError> {
        let own_key = self.unwrap_key(context, sealed)?;
        decrypt(own_key.expose(), &sealed.nonce, &sealed.ciphertext, &context.bound(PAYLOAD_LABEL, "")).ok_or_else(|| context.does_not_open())
    }

    /// The same secret with its own key wrapped under the primary key of the ring; the secret itself is not opened.
    pub fn rewrap(&self, ids: &dyn Ids, context: &SealContext<'_>, sealed: &Sealed) -> Result<Sealed, VaultError> {
        let own_key = self.unwrap_key(context, sealed)?;
        Ok(self.wrap(ids, context, own_key.expose(), sealed.nonce.clone(), sealed.ciphertext.clone()))
    }

    /// A short text that is the same for the same secret as long as the primary key is, and from which nobody without that key can try guesses.
    pub fn fingerprint(&self, secret: &Secret) -> String {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.ring.primary().bytes.expose()).expect("HMAC takes a key of any length");
        mac.update(FINGERPRINT_LABEL);
        mac.update(secret.expose());
        mac.finalize().into_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn wrap(&self, ids: &dyn Ids, context: &SealContext<'_>, own_key: &[u8], nonce: Vec<u8>, ciphertext: Vec<u8>) -> Sealed {
        let key = self.ring.primary();
        let wrap_nonce = random_nonce(ids);
        let wrapped_key = encrypt(key.bytes.expose(), &wrap_nonce, own_key, &context.bound(WRAP_LABEL, &key.id));
        Sealed { key_id: key.id.clone(), wrap_nonce: wrap_nonce.to_vec(), wrapped_key, nonce, ciphertext }
    }

    fn unwrap_key(&self, context: &SealContext<'_>, sealed: &Sealed) -> Result<Secret, VaultError> {
        let key = self.ring.get(&sealed.key_id)?;
        decrypt(key.bytes.expose(), &sealed.wrap_nonce, &sealed.wrapped_key, &context.bound(WRAP_LABEL, &key.id))
            .filter(|own_key| own_key.len() == KEY_BYTES)
            .ok_or_else(|| context.does_not_open())
    }
}

fn random_nonce(ids: &dyn Ids) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    ids.fill(&mut nonce);
    nonce
}

fn encrypt(key: &[u8], nonce: &[u8; NONCE_BYTES], plain: &[u8], bound: &[u8]) -> Vec<u8> {
    let cipher = Aes256GcmSiv::new_from_slice(key).expect("every key has 32 bytes");
    cipher.encrypt(Nonce::from_slice(nonce), Payload { msg: plain, aad: bound }).expect("a secret is far below the cipher's limit of 64 GiB")
}

/// `None` for whatever was not made by [`encrypt`] with the same key and the same binding.
fn decrypt(key: &[u8], nonce: &[u8], ciphertext: &[u8], bound: &[u8]) -> Option<Secret> {
    let nonce: &[u8; NONCE_BYTES] = nonce.try_into().ok()?;
    let cipher = Aes256GcmSiv::new_from_slice(key).expect("every key has 32 bytes");
    cipher.decrypt(Nonce::from_slice(nonce), Payload { msg: ciphertext, aad: bound }).ok().map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemIds;

    const CANARY: &str = "canary-7f3a";

    fn ring(text: &str) -> Result<KeyRing, VaultError> {
        KeyRing::load(&KeySource::Text(Secret::from(text.to_owned())), &SystemIds)
    }

    fn key(id: &str, fill: u8) -> String {
        format!("{id}:{}", STANDARD.encode([fill; KEY_BYTES]))
    }

    fn vault() -> Vault {
        Vault::new(ring(&key("a", 1)).expect("one good key"))
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn canary() -> Secret {
        Secret::from(CANARY.to_owned())
    }

    fn context<'a>(schema: &'a Name, name: &'a Name) -> SealContext<'a> {
        SealContext { cluster: Uuid::from_u128(1), schema, name, object_id: Uuid::from_u128(2), version: 3, kind: "kafka.secret" }
    }

    #[test]
    fn what_is_sealed_opens_also_after_a_round_trip_through_text() {
        let (schema, object) = (name("s"), name("n"));
        let sealed = vault().seal(&SystemIds, &context(&schema, &object), &canary());
        let text = serde_json::to_string(&sealed).expect("serializes");
        assert!(!text.contains(CANARY) && !text.contains(&STANDARD.encode(CANARY)));
        let back: Sealed = serde_json::from_str(&text).expect("parses");
        assert!(vault().open(&context(&schema, &object), &back).expect("opens").same_as(&canary()));
    }

    #[test]
    fn every_seal_has_its_own_key_and_nonce() {
        let (schema, object) = (name("s"), name("n"));
        let seal = || vault().seal(&SystemIds, &context(&schema, &object), &canary());
        let (one, two) = (seal(), seal());
        assert_ne!(one.ciphertext, two.ciphertext);
        assert_ne!(one.wrapped_key, two.wrapped_key);
    }

    #[test]
    fn another_row_version_name_kind_or_installation_does_not_open() {
        let (schema, object, other) = (name("s"), name("n"), name("other"));
        let right = context(&schema, &object);
        let sealed = vault().seal(&SystemIds, &right, &canary());
        let wrong = [
            ("swapped row", SealContext { object_id: Uuid::from_u128(9), ..right }),
            ("rolled-back version", SealContext { version: 2, ..right }),
            ("later version", SealContext { version: 4, ..right }),
            ("renamed", SealContext { name: &other, ..right }),
            ("moved", SealContext { schema: &other, ..right }),
            ("other field", SealContext { kind: "kafka.option", ..right }),
            ("other installation", SealContext { cluster: Uuid::from_u128(9), ..right }),
        ];
        for (what, context) in wrong {
            assert!(matches!(vault().open(&context, &sealed), Err(VaultError::DoesNotOpen { .. })), "{what} opened");
            assert!(vault().rewrap(&SystemIds, &context, &sealed).is_err(), "{what} was wrapped anew");
        }
    }

    #[test]
    fn fields_cannot_lend_each_other_characters() {
        let (ab, c, a, bc) = (name("ab"), name("c"), name("a"), name("bc"));
        assert_ne!(context(&ab, &c).bound(PAYLOAD_LABEL, ""), context(&a, &bc).bound(PAYLOAD_LABEL, ""));
    }

    #[test]
    fn a_changed_bit_anywhere_does_not_open() {
        let (schema, object) = (name("s"), name("n"));
        let context = context(&schema, &object);
        let sealed = vault().seal(&SystemIds, &context, &canary());
        let parts: [fn(&mut Sealed) -> &mut Vec<u8>; 4] = [|s| &mut s.wrap_nonce, |s| &mut s.wrapped_key, |s| &mut s.nonce, |s| &mut s.ciphertext];
        for part in parts {
            let mut flipped = sealed.clone();
            part(&mut flipped)[0] ^= 1;
            assert!(vault().open(&context, &flipped).is_err());
            let mut cut = sealed.clone();
            part(&mut cut).pop();
            assert!(vault().open(&context, &cut).is_err());
        }
    }

    #[test]
    fn rotation_wraps_anew_and_the_old_key_can_then_go() {
        let (schema, object) = (name("s"), name("n"));
        let context = context(&schema, &object);
        let sealed = vault().seal(&SystemIds, &context, &canary());
        let both = Vault::new(ring(&format!("{},{}", key("b", 2), key("a", 1))).expect("two keys"));
        assert_eq!(both.primary_key_id(), "b");
        assert!(both.open(&context, &sealed).is_ok(), "the old key still opens");
        let rewrapped = both.rewrap(&SystemIds, &context, &sealed).expect("wraps");
        assert_eq!((rewrapped.key_id(), &rewrapped.ciphertext), ("b", &sealed.ciphertext));
        let new_only = Vault::new(ring(&key("b", 2)).expect("one key"));
        assert!(new_only.open(&context, &rewrapped).expect("opens").same_as(&canary()));
        assert!(matches!(new_only.open(&context, &sealed), Err(VaultError::UnknownKey { key }) if key == "a"));
    }

    #[test]
    fn a_key_of_another_length_is_refused_and_not_shown() {
        for length in [0, 16, 31, 33, 64] {
            let encoded = STANDARD.encode(vec![7; length]);
            let fault = ring(&format!("a:{encoded}")).expect_err("a wrong length");
            assert!(matches!(fault, VaultError::BadKey { number: 1, .. }));
            assert!(length == 0 || !fault.to_string().contains(&encoded));
        }
    }

    #[test]
    fn rings_that_make_no_sense_are_refused() {
        assert!(matches!(ring(" \n# only a comment\n"), Err(VaultError::Empty)));
        for bad in ["no-colon", ":AAAA", "a b:AAAA", "a:***", &format!("{}\n{}", key("a", 1), key("a", 2))] {
            assert!(matches!(ring(bad), Err(VaultError::BadKey { .. })), "{bad:?}");
        }
    }

    #[test]
    fn debug_and_faults_never_show_a_key_or_a_secret() {
        let (schema, object) = (name("s"), name("n"));
        let context = context(&schema, &object);
        let vault = vault();
        let sealed = vault.seal(&SystemIds, &context, &canary());
        let source = KeySource::Text(Secret::from(key("a", 1)));
        let fault = vault.open(&SealContext { version: 9, ..context }, &sealed).expect_err("another version");
        let shown = format!("{vault:?} {sealed:?} {source:?} {fault:?} {fault} {:?}", vault.open(&context, &sealed));
        for hidden in [CANARY.to_owned(), STANDARD.encode([1; KEY_BYTES]), format!("{:?}", [1_u8; KEY_BYTES])] {
            assert!(!shown.contains(&hidden), "{shown}");
        }
    }

    #[test]
    fn fingerprints_tell_secrets_apart_and_depend_on_the_key() {
        let other = Vault::new(ring(&key("b", 2)).expect("one key"));
        assert_eq!(vault().fingerprint(&canary()), vault().fingerprint(&canary()));
        assert_ne!(vault().fingerprint(&canary()), vault().fingerprint(&Secret::from("x".to_owned())));
        assert_ne!(vault().fingerprint(&canary()), other.fingerprint(&canary()));
    }

    #[test]
    fn a_key_file_is_made_once_only_when_asked_and_only_for_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let load = |create| KeyRing::load(&KeySource::File { path: path.clone(), create }, &SystemIds);
        assert!(matches!(load(false), Err(VaultError::Missing { .. })));
        let made = load(true).expect("creates");
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        let again = load(true).expect("reads");
        assert_eq!(made.primary_id(), again.primary_id());
        assert!(made.primary().bytes.same_as(&again.primary().bytes));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
        assert!(load(false).is_ok());
        for mode in [0o640, 0o604, 0o660, 0o644, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            assert!(matches!(load(true), Err(VaultError::TooOpen { mode: seen, .. }) if seen == mode));
        }
        assert!(matches!(KeyRing::load(&KeySource::File { path: folder.path().to_owned(), create: false }, &SystemIds), Err(VaultError::NotAFile { .. })));
    }
}
