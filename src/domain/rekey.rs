//! Why: an old key of the ring can be thrown away only once nothing is sealed under it any more. Never opens a secret: only the key that each is sealed with is wrapped anew.

use serde::Serialize;
use uuid::Uuid;

use super::{
    CLUSTER, Cluster, Domain, ObjectType,
    audit::Line,
    catalog::{self, META, Place, SECRETS},
    cluster_context, cluster_name, credential, data_sink,
};
use crate::{
    name::QualifiedName,
    problem::{Problem, Reason},
    store::Transaction,
    vault::{SealContext, Sealed, VaultError},
};

/// What [`Domain::rekey`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rekeyed {
    /// The first key of the ring, which everything is sealed under now.
    pub key: String,
    /// What was sealed under another key before, the catalogue's own key included.
    pub resealed: u64,
    /// What was sealed under it already.
    pub kept: u64,
}

impl Domain {
    /// Seals everything under the first key of the ring. Every other key can be taken out of the ring once this returned. Safe to interrupt and to repeat.
    pub async fn rekey(&self) -> Result<Rekeyed, Problem> {
        let vault = &self.0.vault;
        let mut done = Rekeyed { key: vault.primary_key_id().to_owned(), resealed: 0, kept: 0 };
        let line = Line {
            source: "command",
            rpc: "store rekey".to_owned(),
            object_type: ObjectType::System.as_str(),
            object: done.key.clone(),
            decision: "allow",
            rule: "whoever can read the key ring".to_owned(),
            outcome: "begun".to_owned(),
            ..Line::default()
        };
        self.0.audit.write(line).await?;
        for (key, bytes) in catalog::scan_all(&*self.0.store, SECRETS, b"").await? {
            let sealed: Sealed = catalog::decode(SECRETS, &bytes)?;
            if sealed.key_id() == done.key {
                done.kept += 1;
                continue;
            }
            let (name, uid, version, kind) = self.owner_of(&key).await?;
            let context = SealContext { cluster: self.0.cluster, schema: &name.schema, name: &name.name, object_id: uid, version, kind };
            let anew = vault.rewrap(&*self.0.ambient.ids, &context, &sealed).map_err(|fault| unopened(&fault))?;
            let change = Transaction::new().expect(SECRETS, key.clone(), Some(bytes)).put(SECRETS, key, catalog::encode(&anew)?);
            self.0.store.transact(change).await.map_err(catalog::store_problem)?;
            done.resealed += 1;
        }
        // Last: as long as it needs the old key, a start without that key fails loudly.
        if self.rekey_master(&done.key).await? {
            done.resealed += 1;
        } else {
            done.kept += 1;
        }
        self.0.store.sync().await.map_err(catalog::store_problem)?;
        Ok(done)
    }

    /// The catalogue's own key; whether it was sealed under another key.
    async fn rekey_master(&self, key: &str) -> Result<bool, Problem> {
        let Some(bytes) = self.0.store.get(META, CLUSTER).await.map_err(catalog::store_problem)? else { return Ok(false) };
        let known: Cluster = catalog::decode(META, &bytes)?;
        if known.master.key_id() == key {
            return Ok(false);
        }
        let name = cluster_name();
        let master = self.0.vault.rewrap(&*self.0.ambient.ids, &cluster_context(&name, known.id), &known.master).map_err(|fault| unopened(&fault))?;
        let anew = Cluster { master, ..known };
        let change = Transaction::new().expect(META, CLUSTER, Some(bytes)).put(META, CLUSTER, catalog::encode(&anew)?);
        self.0.store.transact(change).await.map_err(catalog::store_problem)?;
        Ok(true)
    }

    /// Whose secret lies under `key`, and as what it was sealed.
    async fn owner_of(&self, key: &[u8]) -> Result<(QualifiedName, Uuid, u64, &'static str), Problem> {
        let orphan = || Problem::new(Reason::StoreCorrupt, "a sealed secret belongs to no object; check the store with `datasink store verify`");
        let (uid, version) = key.split_at_checked(16).ok_or_else(orphan)?;
        let uid = Uuid::from_slice(uid).map_err(|_| orphan())?;
        let version = u64::from_be_bytes(version.try_into().map_err(|_| orphan())?);
        let place: Place = self.row(uid.as_bytes()).await?.ok_or_else(orphan)?;
        let kind = match place.object_type {
            ObjectType::Credential => credential::SEAL_KIND,
            ObjectType::DataSink => data_sink::SEAL_KIND,
            _ => return Err(orphan()),
        };
        let name = QualifiedName::parse(&place.name, None).map_err(|_| orphan())?;
        Ok((name, uid, version, kind))
    }
}

fn unopened(fault: &VaultError) -> Problem {
    let reason = if matches!(fault, VaultError::UnknownKey { .. }) { Reason::StoreUnavailable } else { Reason::StoreCorrupt };
    Problem::new(reason, format!("not everything could be sealed anew: {fault}; what was done so far stays"))
}
