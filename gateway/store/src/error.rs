//! What can go wrong, one variant for each thing that a caller would handle differently.
//!
//! The database says no by name: constraint names become variants where the caller's words are known.

use basalt_model::{
    CapabilityReason, FieldError, Generation, Name, ProjectId, TenantId, images::ImageState,
    networks::Segment, tasks::TaskState, vms::OperationVerb,
};
use sqlx::postgres::PgDatabaseError;
use std::net::Ipv4Addr;

/// Short for a result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such object, or the caller's tenant does not see it: the two are the same.
    #[error("there is no {kind} {name}")]
    NotFound {
        /// Kind of object.
        kind: &'static str,
        /// What it was called.
        name: String,
    },
    /// Another object of the kind has the name.
    #[error("there is a {kind} named {name} already")]
    NameTaken {
        /// Kind of object.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The object changed since the caller read it.
    #[error("the object has generation {}, not {}", current.0, expected.0)]
    GenerationMismatch {
        /// What the caller expected.
        expected: Generation,
        /// What it is.
        current: Generation,
    },
    /// The project's quota does not allow it.
    #[error("{asked} {resource} are asked, {used} of {limit} are used")]
    QuotaExceeded {
        /// `vms`, `cpus`, `memory_bytes` or `storage_bytes`.
        resource: &'static str,
        /// At most.
        limit: u64,
        /// Taken before.
        used: u64,
        /// Asked for on top.
        asked: u64,
    },
    /// A spec names an object that is not there.
    #[error("{field}: there is no {kind} {name}")]
    ReferenceNotFound {
        /// Kind of object.
        kind: &'static str,
        /// The name in the spec.
        name: Name,
        /// Where it stands.
        field: String,
    },
    /// The image cannot be used yet, or not any more.
    #[error("{field}: image {image} is not ready")]
    ImageNotReady {
        /// Its name.
        image: Name,
        /// Where it is in its life.
        state: ImageState,
        /// Where the spec names it.
        field: String,
    },
    /// A disk wants an image of another format.
    #[error("{field}: image {image} has format {format}")]
    ImageWrongFormat {
        /// Its name.
        image: Name,
        /// Its format.
        format: String,
        /// Where the spec names it.
        field: String,
    },
    /// A disk is smaller than what it begins with.
    #[error("{field}: {given} bytes hold less than the {minimum} bytes of the image")]
    SizeTooSmall {
        /// Where it stands.
        field: String,
        /// Bytes given.
        given: u64,
        /// Bytes needed.
        minimum: u64,
    },
    /// Another network of the project has addresses of this range.
    #[error("{cidr} overlaps {with}")]
    CidrOverlap {
        /// Where it stands.
        field: &'static str,
        /// The range.
        cidr: String,
        /// The range it overlaps.
        with: String,
    },
    /// Another network has the VLAN of the uplink, or its untagged frames.
    #[error("another network is on {segment:?}")]
    WireTaken {
        /// What was asked for.
        segment: Segment,
    },
    /// The network has no free address.
    #[error("{field}: network {network} has no free address")]
    SubnetExhausted {
        /// Its name.
        network: Name,
        /// Where the spec names it.
        field: String,
    },
    /// Somebody has the address.
    #[error("{field}: {address} is taken in network {network}")]
    AddressTaken {
        /// The address.
        address: String,
        /// The network's name.
        network: String,
        /// Where it stands.
        field: String,
    },
    /// The address cannot belong to a guest of the network.
    #[error("{field}: {address} is not a guest address of network {network}")]
    AddressOutside {
        /// The address.
        address: Ipv4Addr,
        /// The network's name.
        network: Name,
        /// Where it stands.
        field: String,
    },
    /// Others need the object.
    #[error("{kind} {name} is in use by {}", by.join(", "))]
    InUse {
        /// Kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Who needs it, as `kind/name`, at most ten.
        by: Vec<String>,
    },
    /// A project is named beside a tenant that it is not of.
    #[error("project {project} is not of tenant {tenant}")]
    ProjectElsewhere {
        /// The project.
        project: ProjectId,
        /// The tenant that was named with it.
        tenant: TenantId,
    },
    /// The object is protected against deletion and redeployment.
    #[error("VM {name} is protected")]
    Protected {
        /// Its name.
        name: Name,
    },
    /// The object is going.
    #[error("{kind} {name} is being deleted")]
    Deleting {
        /// Kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The field cannot change after creation.
    #[error("{field} cannot change")]
    Immutable {
        /// Which one.
        field: String,
        /// What to do instead.
        remedy: String,
    },
    /// The spec contradicts itself.
    #[error("{} fields are wrong", .0.len())]
    Invalid(Vec<FieldError>),
    /// The verb does not fit the VM's desired power.
    #[error("VM {name} is not meant to run, so it cannot {verb:?}")]
    NotRunning {
        /// Its name.
        name: Name,
        /// The verb.
        verb: OperationVerb,
    },
    /// The host that the VM is placed on cannot take the change.
    #[error("{0}")]
    HostFull(CapabilityReason),
    /// The object cannot do that now.
    #[error("{0}")]
    Refused(Box<CapabilityReason>),
    /// The idempotency key was used for another request.
    #[error("the idempotency key {key} was used for another request")]
    IdempotencyReused {
        /// The key.
        key: String,
    },
    /// The task ended before.
    #[error("the task is {}", state.as_str())]
    TaskEnded {
        /// How.
        state: TaskState,
    },
    /// A field of the request line is wrong.
    #[error("{}: {}", .0.field, .0.reason)]
    Parameter(FieldError),
    /// A one-time token that is unknown, used or past its end: the three are the same.
    #[error("the token is not valid")]
    TokenInvalid,
    /// The server is too old to be trusted with row level security.
    #[error("PostgreSQL {found} is too old; at least 15.14 is needed")]
    ServerTooOld {
        /// Its version.
        found: String,
    },
    /// The database has another schema than this program.
    #[error("the database has schema version {found}, this program needs {wanted}; run `migrate`")]
    SchemaMismatch {
        /// Newest applied migration.
        found: i64,
        /// Newest known migration.
        wanted: i64,
    },
    /// The database is away, or too busy; it may work later.
    #[error("the database does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// Two transactions stood in each other's way; again, and it works.
    #[error("another change came in between")]
    Conflict(#[source] sqlx::Error),
    /// The migrations could not run.
    #[error("the database could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row that this program cannot read, or a mistake in it.
    #[error("the database refused")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        use sqlx::Error::{BeginFailed, Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
        let code = e.as_database_error().and_then(|d| d.code()).map(|c| c.into_owned());
        match (&e, code.as_deref()) {
            (_, Some("40001" | "40P01" | "55P03")) => Self::Conflict(e),
            // Shutting down, starting up, cancelled by a limit, out of connections or memory.
            (_, Some("57P01" | "57P02" | "57P03" | "57014" | "25P03")) => Self::Unavailable(e),
            (_, Some(c)) if c.starts_with("53") || c.starts_with("08") => Self::Unavailable(e),
            (Io(_) | PoolTimedOut | PoolClosed | Tls(_) | WorkerCrashed | BeginFailed | Protocol(_), _) => {
                Self::Unavailable(e)
            }
            _ => Self::Database(e),
        }
    }
}

impl Error {
    /// The same, for another one whom it befell: who shared a transaction or a statement.
    pub(crate) fn shared(&self) -> Self {
        let copy = |e: &sqlx::Error| match e {
            sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
            e => sqlx::Error::Protocol(e.to_string()),
        };
        match self {
            Self::Unavailable(e) => Self::Unavailable(copy(e)),
            Self::Conflict(e) => Self::Conflict(copy(e)),
            Self::Database(e) => Self::Database(copy(e)),
            e => Self::Database(sqlx::Error::Protocol(e.to_string())),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(e: sqlx::migrate::MigrateError) -> Self {
        match e {
            sqlx::migrate::MigrateError::Execute(e) => e.into(),
            e => Self::Migrate(e),
        }
    }
}

/// The constraint that refused, and the details.
pub(crate) fn refused(e: &sqlx::Error) -> Option<(&str, &PgDatabaseError)> {
    let e = e.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    Some((e.constraint()?, e))
}

/// Turns the refusal of a named constraint into the caller's words.
pub(crate) fn named(e: sqlx::Error, words: impl FnOnce(&str) -> Option<Error>) -> Error {
    match refused(&e).and_then(|(constraint, _)| words(constraint)) {
        Some(error) => error,
        None => e.into(),
    }
}
