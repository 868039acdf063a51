//! Secrets: sealed before they are written, opened for whoever reaches a platform, shown to nobody.
//!
//! Each value is sealed with AES-256-GCM under a key that the database never sees, for its row and generation alone: a
//! sealed value that is copied into another row, or brought back from an older backup into a newer row, does not open.

use crate::{
    Change, Error, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, Update,
    audit_events::{self, Entry},
    change,
    error::named,
    row,
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use basalt_model::{
    CapabilityReason, Generation, Metadata, Name, ProjectId, SecretId, deployments::SecretText,
    secrets::SecretSpec,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::{collections::BTreeMap, fmt};

const KIND: &str = "secret";

/// Keys that secrets are sealed with: the newest seals, all of them open.
pub struct SealingKeys(BTreeMap<i64, LessSafeKey>);

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl SealingKeys {
    /// Keys by id, each of 32 bytes; none without any, or with one of another length.
    pub fn new(keys: impl IntoIterator<Item = (i64, Vec<u8>)>) -> Option<Self> {
        let read = |(id, bytes): (i64, Vec<u8>)| {
            Some((id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?)))
        };
        let keys = keys.into_iter().map(read).collect::<Option<BTreeMap<_, _>>>()?;
        (!keys.is_empty()).then_some(Self(keys))
    }

    fn seal(
        &self,
        of: SecretId,
        generation: Generation,
        nonce: [u8; NONCE_LEN],
        value: &str,
    ) -> Result<(i64, Vec<u8>)> {
        let unsealed = || sealed_wrong(of, "no key seals it");
        let (id, key) = self.0.last_key_value().ok_or_else(unsealed)?;
        let mut text = value.as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            bound_to(of, generation),
            &mut text,
        )
        .map_err(|_| unsealed())?;
        Ok((*id, text))
    }

    fn open(&self, of: SecretId, row: &Sealed) -> Result<SecretText> {
        let key = self.0.get(&row.key_id).ok_or_else(|| {
            sealed_wrong(of, &format!("the key {} that it was sealed with is not there", row.key_id))
        })?;
        let wrong = || sealed_wrong(of, "it does not open with the key that it was sealed with");
        let nonce = Nonce::try_assume_unique_for_key(&row.nonce).map_err(|_| wrong())?;
        let mut text = row.sealed.clone();
        let open = key.open_in_place(nonce, bound_to(of, row.generation), &mut text).map_err(|_| wrong())?;
        Ok(SecretText::new(std::str::from_utf8(open).map_err(|_| wrong())?))
    }
}

/// A sealed value opens for this row and this generation alone.
fn bound_to(of: SecretId, generation: Generation) -> Aad<[u8; 24]> {
    let mut bound = [0; 24];
    bound[..16].copy_from_slice(of.0.as_bytes());
    bound[16..].copy_from_slice(&generation.0.to_be_bytes());
    Aad::from(bound)
}

fn sealed_wrong(of: SecretId, why: &str) -> Error {
    Error::Refused(Box::new(CapabilityReason::new(
        "secret_unreadable",
        format!("secret/{of}"),
        why.to_owned(),
        "give all gateways the same [secrets] key_file with every key that was ever in it, or set the secret anew",
    )))
}

struct Sealed {
    key_id: i64,
    nonce: Vec<u8>,
    sealed: Vec<u8>,
    generation: Generation,
}

/// A secret as it may be shown: without its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    /// Common fields. The generation counts values.
    pub metadata: Metadata,
}

impl Secret {
    /// Its id.
    pub fn id(&self) -> SecretId {
        SecretId(self.metadata.id)
    }
}

macro_rules! columns {
    () => {
        crate::row::metadata_columns!("x")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Secret {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { metadata: row::metadata(row)? })
    }
}

async fn audit(conn: &mut PgConnection, change: &Change, action: &'static str, of: &Secret) -> Result<()> {
    let m = &of.metadata;
    let entry = Entry::new(action, m.tenant_id, m.project_id, KIND, m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await
}

/// The last bytes of a new id: all of its randomness, so that no key seals twice under one.
fn nonce(change: &Change) -> [u8; NONCE_LEN] {
    let id = (change.ids)();
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&id.as_bytes()[16 - NONCE_LEN..]);
    nonce
}

/// Keeps a new secret.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<SecretSpec>,
    keys: &SealingKeys,
) -> Result<Secret> {
    let (tenant, id) = (tx.tenant(), change.id());
    let nonce = nonce(change);
    let (key_id, sealed) = keys.seal(id, Generation::FIRST, nonce, &new.spec.value)?;
    let secret: Secret = sqlx::query_as(concat!(
        "INSERT INTO secrets AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, key_id,
            nonce, sealed) VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8, $9) RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(key_id)
    .bind(nonce.as_slice())
    .bind(sealed)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "secrets_name" => Some(Error::NameTaken { kind: KIND, name: new.name.to_string() }),
            "secrets_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    audit(tx.conn(), change, "secret.create", &secret).await?;
    Ok(secret)
}

/// A secret of a project, without its value.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<Secret> {
    row::keyed(tx.conn(), row::keyed_select!("secrets", "", columns!()), project, key, KIND).await
}

/// Secrets of a project without their values, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<Secret>> {
    let select = row::listed_select!("SELECT ", columns!(), " FROM secrets x");
    row::listed(tx.conn(), select, project, page, |s: &Secret| s.metadata.id).await
}

/// Replaces the value. The same value again moves nothing.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<SecretSpec>,
    keys: &SealingKeys,
) -> Result<Secret> {
    let select = row::keyed_select!("secrets", " FOR NO KEY UPDATE", columns!());
    let old: Secret = row::keyed(tx.conn(), select, project, key, KIND).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    let sealed = read(tx.conn(), old.id()).await?;
    // One that does not open any more is replaced by what opens.
    let same = sealed
        .as_ref()
        .and_then(|s| keys.open(old.id(), s).ok())
        .is_some_and(|v| v.expose() == update.spec.value);
    if same && *labels == old.metadata.labels {
        return Ok(old);
    }
    let generation = Generation(old.metadata.generation.0 + i64::from(!same));
    let nonce = nonce(change);
    let (key_id, sealed) = keys.seal(old.id(), generation, nonce, &update.spec.value)?;
    let secret: Secret = sqlx::query_as(concat!(
        "UPDATE secrets x SET labels = $2, generation = $3, key_id = $4, nonce = $5, sealed = $6, updated_at = $7
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(labels))
    .bind(generation)
    .bind(key_id)
    .bind(nonce.as_slice())
    .bind(sealed)
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx.conn(), change, "secret.update", &secret).await?;
    Ok(secret)
}

/// Forgets a secret. Refused while a provider gets in with it.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Secret> {
    let select = row::keyed_select!("secrets", " FOR UPDATE", columns!());
    let secret: Secret = row::keyed(tx.conn(), select, project, key, KIND).await?;
    change::expect(expected, secret.metadata.generation)?;
    let by: Vec<String> = sqlx::query_scalar(
        "SELECT 'provider/' || name FROM providers
         WHERE project_id = $1 AND EXISTS (SELECT FROM jsonb_each(spec) f WHERE f.value ->> 'secret' = $2)
         ORDER BY name LIMIT 10",
    )
    .bind(project)
    .bind(&secret.metadata.name)
    .fetch_all(tx.conn())
    .await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: KIND, name: secret.metadata.name.to_string(), by });
    }
    let conn = tx.step_out().await?;
    sqlx::query("DELETE FROM secrets WHERE id = $1").bind(secret.id()).execute(conn).await?;
    tx.back_to_tenant().await?;
    audit(tx.conn(), change, "secret.delete", &secret).await?;
    Ok(secret)
}

/// Keeps a secret that is about to be named from being deleted until this transaction ends.
pub(crate) async fn hold(tx: &mut TenantTx, project: ProjectId, name: &Name, field: &str) -> Result<()> {
    let found = sqlx::query("SELECT FROM secrets WHERE project_id = $1 AND name = $2 FOR KEY SHARE")
        .bind(project)
        .bind(name)
        .fetch_optional(tx.conn())
        .await?;
    let missing = || Error::ReferenceNotFound { kind: KIND, name: name.clone(), field: field.to_owned() };
    found.map(|_| ()).ok_or_else(missing)
}

/// The values of secrets of a project by name, for whoever starts a program with them. Those that are not there are left out.
pub async fn reveal(
    tx: &mut SystemTx,
    project: ProjectId,
    names: &[Name],
    keys: &SealingKeys,
) -> Result<BTreeMap<Name, (Generation, SecretText)>> {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    let found: Vec<(Name, SecretId)> =
        sqlx::query_as("SELECT name, id FROM secrets WHERE project_id = $1 AND name = ANY($2)")
            .bind(project)
            .bind(names)
            .fetch_all(tx.conn())
            .await?;
    let mut out = BTreeMap::new();
    for (name, id) in found {
        if let Some(sealed) = read(tx.conn(), id).await? {
            out.insert(name, (sealed.generation, keys.open(id, &sealed)?));
        }
    }
    Ok(out)
}

async fn read(conn: &mut PgConnection, id: SecretId) -> Result<Option<Sealed>> {
    let row = sqlx::query("SELECT key_id, nonce, sealed, generation FROM secrets WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    let sealed = |row: PgRow| -> sqlx::Result<Sealed> {
        Ok(Sealed {
            key_id: row.try_get("key_id")?,
            nonce: row.try_get("nonce")?,
            sealed: row.try_get("sealed")?,
            generation: row.try_get("generation")?,
        })
    };
    Ok(row.map(sealed).transpose()?)
}
