//! The change feed under many writers whose commits overtake each other, beside a transaction that stays open: what a
//! reader that pulls all the while was told is compared with what is there in the end.

use crate::{figures::floor::PGBENCH, oracles, truth::Truth};
use anyhow::{Context, Result, bail, ensure};
use basalt_store::{
    Feed,
    feed::{Batch, Table},
};
use std::{
    collections::BTreeSet,
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;

/// Rows of one transaction.
const ROWS: usize = 10;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writers at once.
    pub writers: usize,
    /// Rows to be written; every seventh transaction writes and rolls back.
    pub rows: usize,
    /// How long one transaction stays open meanwhile.
    pub open: Duration,
    /// Seed of the writers' pauses.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows that are there.
    pub rows: usize,
    /// Pulls that brought something.
    pub pulls: usize,
    /// Rows of which the reader was never told.
    pub lost: Vec<String>,
    /// Rows of which it was told twice, or that are not there.
    pub doubled: Vec<String>,
    /// The slowest pull while the transaction was open.
    pub slowest: Duration,
}

/// Runs a plan on a database in which nothing else happens.
///
/// # Errors
/// When the database or pgbench fails; what was lost is in the outcome.
pub async fn run(truth: &Truth, plan: &Plan) -> Result<Outcome> {
    let feed = Feed::new(&truth.store);
    let mut cursor = feed.bootstrap().await?.cursor;
    let (mut told, mut outcome) = (BTreeSet::new(), Outcome::default());
    let mut open = hold_open(&truth.owner_url, plan.open)?;
    let (mut writers, _script) = write(&truth.owner_url, plan)?;
    loop {
        // Asked before the pull: what was committed until then is in it.
        let over = ended(&mut writers)? & ended(&mut open)?;
        let began = Instant::now();
        let batch = feed.pull(&cursor).await?;
        outcome.slowest = outcome.slowest.max(began.elapsed());
        outcome.pulls += usize::from(!batch.changes.is_empty());
        cursor = batch.cursor.clone();
        take(batch, &mut told, &mut outcome)?;
        if over {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let there: BTreeSet<String> =
        oracles::psql(&truth.owner_url, "SELECT id FROM tenants WHERE name LIKE 'soak-%'")?
            .into_iter()
            .collect();
    outcome.rows = there.len();
    outcome.lost = there.difference(&told).cloned().collect();
    outcome.doubled.extend(told.difference(&there).cloned());
    Ok(outcome)
}

fn take(batch: Batch, told: &mut BTreeSet<String>, outcome: &mut Outcome) -> Result<()> {
    ensure!(!batch.reload, "the feed began anew though nothing was lost");
    for change in batch.changes.into_iter().filter(|c| c.table == Table::Tenant) {
        if !told.insert(change.key.clone()) {
            outcome.doubled.push(change.key);
        }
    }
    Ok(())
}

const INSERT: &str = "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
    SELECT gen_random_uuid(), 'soak-' || gen_random_uuid(), '{}', 1, now(), now() FROM generate_series(1, :rows)";

/// One row, written at once and committed at the end.
fn hold_open(url: &str, time: Duration) -> Result<Child> {
    let script =
        format!("BEGIN; {}; SELECT pg_sleep({}); COMMIT", INSERT.replace(":rows", "1"), time.as_secs_f64());
    // The owner's way in has no limit on how long a statement may take.
    Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", &script, url])
        .stdout(Stdio::null())
        .spawn()
        .context("psql cannot be started")
}

fn write(url: &str, plan: &Plan) -> Result<(Child, NamedTempFile)> {
    let script = format!(
        "\\set pause random(0, 3000)\n\\set fate random(1, 7)\nBEGIN;\n{};\n\\sleep :pause us\n\\if :fate = 1\nROLLBACK;\n\\else\nCOMMIT;\n\\endif\n",
        INSERT.replace("\n    ", " ").replace(":rows", &ROWS.to_string())
    );
    let mut file = NamedTempFile::new()?;
    file.write_all(script.as_bytes())?;
    let each = plan.rows.div_ceil(ROWS * plan.writers);
    let child = Command::new(PGBENCH)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={}", plan.writers))
        .arg(format!("--transactions={each}"))
        .arg(format!("--random-seed={}", plan.seed))
        .arg("--file")
        .arg(file.path())
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Ok((child.with_context(|| format!("{PGBENCH} cannot be started"))?, file))
}

fn ended(child: &mut Child) -> Result<bool> {
    match child.try_wait()? {
        None => Ok(false),
        Some(status) if status.success() => Ok(true),
        Some(status) => bail!("a writer ended with {status}"),
    }
}
