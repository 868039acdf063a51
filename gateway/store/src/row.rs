//! Reading columns into the model's types.

use crate::{Error, Key, List, Page, Result};
use basalt_model::{Labels, Metadata, ProjectId, Selector, selector::Requirement};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

/// Columns of [`Metadata`] of a table with tenant and project.
macro_rules! metadata_columns {
    ($alias:literal) => {
        concat!(
            $alias,
            ".id, ",
            $alias,
            ".tenant_id, ",
            $alias,
            ".project_id, ",
            $alias,
            ".name, ",
            $alias,
            ".labels, ",
            $alias,
            ".generation, ",
            $alias,
            ".created_at, ",
            $alias,
            ".updated_at, ",
            $alias,
            ".deletion_requested_at"
        )
    };
}
pub(crate) use metadata_columns;

/// Rows of a page of one table: `WHERE` goes on after `id > $1`, `$2` is the limit, `$3` to `$7` the selector.
macro_rules! selected_where {
    ($alias:literal) => {
        concat!(
            " AND ($3::jsonb IS NULL OR (",
            $alias,
            ".labels @> $3 AND ",
            $alias,
            ".labels ?& $4 AND NOT ",
            $alias,
            ".labels ?| $5 AND NOT EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS n(k, v) WHERE ",
            $alias,
            ".labels ->> n.k = n.v)))"
        )
    };
}
pub(crate) use selected_where;

/// The row `x` of a project's table by id or name: `$1` is the project, `$2` the id, `$3` the name. One of the two looked
/// up after the other, for of an OR the server may make a look through all rows of the project. (And `coalesce` in a
/// select of its own: bare, row level security keeps it away from indexes, as something that might leak.)
macro_rules! keyed_where {
    ($table:literal) => {
        concat!(
            " WHERE x.project_id = $1 AND x.id = (SELECT coalesce($2, (SELECT id FROM ",
            $table,
            " WHERE project_id = $1 AND name = $3)))"
        )
    };
}
pub(crate) use keyed_where;

/// A statement that lists what a project has; what is handed in reads the objects as `x`.
macro_rules! listed_select {
    ($($objects:tt)*) => {
        concat!(
            $($objects)*,
            " WHERE x.id > $1 AND x.project_id = $8",
            crate::row::selected_where!("x"),
            " ORDER BY x.id LIMIT $2"
        )
    };
}
pub(crate) use listed_select;

/// A page of what a statement of `listed_select!` finds, oldest first. `id` names an object.
pub(crate) async fn listed<T>(
    conn: &mut PgConnection,
    statement: &'static str,
    project: ProjectId,
    page: &Page,
    id: impl Fn(&T) -> Uuid,
) -> Result<List<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let s = Selected::new(&page.selector);
    let found = sqlx::query_as(statement)
        .bind(page.after())
        .bind(page.fetch())
        .bind(s.equal)
        .bind(s.exist)
        .bind(s.missing)
        .bind(s.differ_keys)
        .bind(s.differ_values)
        .bind(project)
        .fetch_all(conn)
        .await?;
    Ok(page.cut(found, id))
}

/// A statement of `keyed_where!` that reads the object alone, and locks it as said.
macro_rules! keyed_select {
    ($table:literal, $lock:literal, $($columns:tt)*) => {
        concat!("SELECT ", $($columns)*, " FROM ", $table, " x", crate::row::keyed_where!($table), $lock)
    };
}
pub(crate) use keyed_select;

/// What a statement of `keyed_where!` finds by a key.
pub(crate) async fn keyed<T>(
    conn: &mut PgConnection,
    statement: &'static str,
    project: ProjectId,
    key: &Key,
    kind: &'static str,
) -> Result<T>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let found = sqlx::query_as(statement).bind(project).bind(key.id()).bind(key.name());
    found.fetch_optional(conn).await?.ok_or_else(|| key.missing(kind))
}

/// Asks for the deletion of the row `$1` at the time `$2`, and reads it.
macro_rules! deleting {
    ($table:literal, $($columns:tt)*) => {
        concat!(
            "UPDATE ",
            $table,
            " x SET deletion_requested_at = $2, generation = generation + 1, updated_at = $2 WHERE id = $1 RETURNING ",
            $($columns)*
        )
    };
}
pub(crate) use deleting;

/// Whether the deletion of the row `$1` was asked for; who reads it holds the row.
macro_rules! going {
    ($table:literal) => {
        concat!("SELECT deletion_requested_at IS NOT NULL FROM ", $table, " WHERE id = $1 FOR UPDATE")
    };
}
pub(crate) use going;

/// A selector as the five parameters that `selected_where!` reads.
pub(crate) struct Selected {
    pub equal: Option<Json<Labels>>,
    pub exist: Vec<String>,
    pub missing: Vec<String>,
    pub differ_keys: Vec<String>,
    pub differ_values: Vec<String>,
}

impl Selected {
    pub(crate) fn new(selector: &Selector) -> Self {
        let mut out = Self {
            equal: None,
            exist: Vec::new(),
            missing: Vec::new(),
            differ_keys: Vec::new(),
            differ_values: Vec::new(),
        };
        if selector.0.is_empty() {
            return out;
        }
        out.equal = Some(Json(selector.equalities()));
        let mut first = std::collections::BTreeMap::new();
        for requirement in &selector.0 {
            match requirement {
                // Two different values of one key: nothing has both, and a map keeps only the last.
                Requirement::Equals(k, v) => {
                    if first.insert(k, v).is_some_and(|before| before != v) {
                        out.exist.push(k.clone());
                        out.missing.push(k.clone());
                    }
                }
                Requirement::NotEquals(k, v) => {
                    out.differ_keys.push(k.clone());
                    out.differ_values.push(v.clone());
                }
                Requirement::Exists(k) => out.exist.push(k.clone()),
                Requirement::Missing(k) => out.missing.push(k.clone()),
            }
        }
        out
    }
}

pub(crate) fn metadata(row: &PgRow) -> sqlx::Result<Metadata> {
    Ok(Metadata {
        id: row.try_get("id")?,
        tenant_id: absent(row.try_get("tenant_id"))?,
        project_id: absent(row.try_get("project_id"))?,
        name: row.try_get("name")?,
        labels: json(row, "labels")?,
        generation: row.try_get("generation")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deletion_requested_at: row.try_get("deletion_requested_at")?,
    })
}

/// A column that the table may lack.
fn absent<T>(column: sqlx::Result<Option<T>>) -> sqlx::Result<Option<T>> {
    match column {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        other => other,
    }
}

pub(crate) fn json<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<T> {
    row.try_get::<Json<T>, _>(column).map(|j| j.0)
}

/// A list without the room that reading it took: rows stay in memory, and most lists are of one or two.
pub(crate) fn list<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<Vec<T>> {
    json(row, column).map(|list: Vec<T>| list.into_boxed_slice().into_vec())
}

pub(crate) fn json_option<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<Option<T>> {
    row.try_get::<Option<Json<T>>, _>(column).map(|j| j.map(|j| j.0))
}

/// A bigint that is never negative.
pub(crate) fn unsigned(row: &PgRow, column: &str) -> sqlx::Result<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|e| unreadable(column, e))
}

/// A bigint that counts things which fit into 32 bits; larger ones stand at the top.
pub(crate) fn count(row: &PgRow, column: &str) -> sqlx::Result<u32> {
    unsigned(row, column).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// A number of bytes as the database keeps it; what is larger stands at the top.
pub(crate) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The one word that an enum without fields is in JSON and in the database.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(Error::Database(sqlx::Error::Encode(format!("{other} is no word").into()))),
        Err(e) => Err(Error::Database(sqlx::Error::Encode(Box::new(e)))),
    }
}

pub(crate) fn from_word<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<T> {
    let word: String = row.try_get(column)?;
    serde_json::from_value(serde_json::Value::String(word)).map_err(|e| unreadable(column, e))
}

pub(crate) fn unreadable(column: &str, e: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(e) }
}

/// Newtypes over UUID as an array parameter.
pub(crate) fn uuids<T: Into<Uuid> + Copy>(ids: &[T]) -> Vec<Uuid> {
    ids.iter().map(|id| (*id).into()).collect()
}
