//! People, and the token that lets the first of them in.

use crate::{
    Change, Error, Key, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    error::named,
};
use basalt_model::{DateTime, Name, UserId};
use sqlx::{FromRow, Row, postgres::PgRow};

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// User name.
    pub name: Name,
    /// When they were made known.
    pub created_at: DateTime,
}

impl FromRow<'_, PgRow> for User {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// Makes a person known. `password_hash` is a PHC string.
pub async fn insert(tx: &mut SystemTx, change: &Change, name: &Name, password_hash: &str) -> Result<User> {
    let user: User = sqlx::query_as(
        "INSERT INTO users (id, name, password_hash, created_at) VALUES ($1, $2, $3, $4) RETURNING *",
    )
    .bind((change.ids)())
    .bind(name)
    .bind(password_hash)
    .bind(change.now)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| (c == "users_name").then(|| Error::NameTaken { kind: "user", name: name.to_string() }))
    })?;
    audit(tx, change, "user.create", &user).await?;
    Ok(user)
}

async fn audit(tx: &mut SystemTx, change: &Change, action: &'static str, user: &User) -> Result<()> {
    let entry = Entry::new(action, None, None, "user", user.id.0, user.name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// A person by id or name.
pub async fn get(tx: &mut SystemTx, key: &Key) -> Result<User> {
    sqlx::query_as("SELECT * FROM users WHERE id = $1 OR name = $2")
        .bind(key.id())
        .bind(key.name())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| key.missing("user"))
}

/// A person and the hash of their password.
pub async fn by_name(tx: &mut SystemTx, name: &Name) -> Result<Option<(User, String)>> {
    let row = sqlx::query("SELECT * FROM users WHERE name = $1").bind(name).fetch_optional(tx.conn()).await?;
    row.map(|row| Ok((User::from_row(&row)?, row.try_get("password_hash")?))).transpose()
}

/// People, oldest first.
pub async fn list(tx: &mut SystemTx, page: &Page) -> Result<List<User>> {
    let users = sqlx::query_as("SELECT * FROM users WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(page.after())
        .bind(page.fetch())
        .fetch_all(tx.conn())
        .await?;
    Ok(page.cut(users, |u: &User| u.id.0))
}

/// Whether anybody is known.
pub async fn any(tx: &mut SystemTx) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM users)").fetch_one(tx.conn()).await?)
}

/// Replaces a password and ends every session of its owner.
pub async fn set_password(
    tx: &mut SystemTx,
    change: &Change,
    key: &Key,
    password_hash: &str,
) -> Result<User> {
    let user = get(tx, key).await?;
    sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1")
        .bind(user.id)
        .bind(password_hash)
        .execute(tx.conn())
        .await?;
    sqlx::query("UPDATE service_tokens SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL")
        .bind(user.id)
        .bind(change.now)
        .execute(tx.conn())
        .await?;
    audit(tx, change, "user.set_password", &user).await?;
    Ok(user)
}

/// Removes a person with their sessions and roles.
pub async fn delete(tx: &mut SystemTx, change: &Change, key: &Key) -> Result<()> {
    let user = get(tx, key).await?;
    for statement in [
        "DELETE FROM role_bindings WHERE principal_id = $1",
        "DELETE FROM service_tokens WHERE user_id = $1",
        "DELETE FROM users WHERE id = $1",
    ] {
        sqlx::query(statement).bind(user.id).execute(tx.conn()).await?;
    }
    audit(tx, change, "user.delete", &user).await
}

/// Keeps the digest of the token that lets the first administrator in; earlier ones end.
pub async fn put_first_boot_token(
    tx: &mut SystemTx,
    hash: &[u8],
    expires_at: DateTime,
    now: DateTime,
) -> Result<()> {
    sqlx::query("UPDATE first_boot_tokens SET used_at = $1 WHERE used_at IS NULL")
        .bind(now)
        .execute(tx.conn())
        .await?;
    sqlx::query("INSERT INTO first_boot_tokens (hash, created_at, expires_at) VALUES ($1, $2, $3)")
        .bind(hash)
        .bind(now)
        .bind(expires_at)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Uses the first-boot token up. It works once, before its end, and only while nobody is known.
pub async fn redeem_first_boot_token(tx: &mut SystemTx, hash: &[u8], now: DateTime) -> Result<()> {
    let used = sqlx::query(
        "UPDATE first_boot_tokens SET used_at = $2
         WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 AND NOT EXISTS (SELECT FROM users)",
    )
    .bind(hash)
    .bind(now)
    .execute(tx.conn())
    .await?
    .rows_affected();
    if used == 1 { Ok(()) } else { Err(Error::TokenInvalid) }
}
