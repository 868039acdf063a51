//! What happens to a database behind the back of those who use it, and what only the superuser sees of it.

use super::Database;
use sqlx::{AssertSqlSafe, Executor};

impl Database {
    async fn run(&self, statements: &str) {
        let mut owner = self.superuser().await;
        let done = owner.execute(AssertSqlSafe(statements.to_owned())).await;
        done.unwrap_or_else(|e| panic!("{statements}: {e}"));
    }

    /// Empties the change log, as after a crash of the server.
    pub async fn lose_log(&self) {
        self.run(
            "TRUNCATE change_log;
             INSERT INTO change_log (xid, source, key, op) VALUES (pg_current_xact_id(), 'hosts', '', 'reload')",
        )
        .await;
    }

    /// Knows of no attempt any more, as after the restore of an older backup.
    pub async fn forget_attempts(&self) {
        self.run(
            "UPDATE deployment_attempts SET epoch = 0;
             UPDATE deployment_status SET begun = 0, ended = 0, attempted = NULL, applied = NULL",
        )
        .await;
    }

    /// Which transaction wrote each row of what was seen at providers, and of what was tried: unchanged when nothing was.
    pub async fn writers_of_what_was_seen(&self) -> Vec<Vec<String>> {
        self.ask(&[
            "SELECT xmin, id FROM discovered_local ORDER BY id",
            "SELECT xmin, id FROM discovery_runs ORDER BY id",
            "SELECT xmin, provider_id FROM provider_status",
            "SELECT xmin, deployment_id FROM deployment_status",
        ])
        .await
    }
}
