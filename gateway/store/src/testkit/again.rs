//! A database that goes back to where it stood, so that one of them, with all its connections and what they have learnt,
//! serves a simulator for many worlds. A copy of a database costs more than most worlds do.

use super::Database;
use crate::Store;
use sqlx::{Connection, Executor};

/// Every table as it stands, in a schema of its own, and the way back. Rows of partitions go back through their table,
/// for which partitions there are changes with the days. Triggers do not fire on it: the change log goes
/// back like any other table.
const KEEP: &str = r#"
CREATE SCHEMA kept;
DO $$
DECLARE t text;
BEGIN
    CREATE TABLE kept."sequences of it" AS
        SELECT sequencename AS name, coalesce(last_value, start_value) AS value, last_value IS NOT NULL AS called
        FROM pg_sequences WHERE schemaname = 'public';
    FOR t IN SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    LOOP
        EXECUTE format('CREATE TABLE kept.%I AS TABLE public.%I', t, t);
    END LOOP;
END $$;
CREATE FUNCTION kept.go_back() RETURNS void LANGUAGE plpgsql AS $$
DECLARE t record;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR t IN
        SELECT c.relname AS name, k.oid IS NOT NULL AS kept,
            (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '') AS columns
        FROM pg_class c
        LEFT JOIN pg_class k ON k.relname = c.relname AND k.relnamespace = 'kept'::regnamespace
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    LOOP
        EXECUTE format('DELETE FROM public.%I', t.name);
        IF t.kept THEN
            EXECUTE format('INSERT INTO public.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM kept.%I',
                t.name, t.columns, t.columns, t.name);
        END IF;
    END LOOP;
    PERFORM setval(format('public.%I', name), value, called) FROM kept."sequences of it";
END $$;
"#;

impl Database {
    /// Keeps what stands in it now; copies have it too, and can be made at once.
    pub async fn keep(&self) {
        let mut owner = self.superuser().await;
        owner.execute(KEEP).await.expect("everything is kept");
        let asked = self.owner.lock().await.take();
        for connection in asked.into_iter().chain([owner]) {
            connection.close().await.expect("the connection closes");
        }
    }

    /// Puts everything back to where it was when it was kept. Nobody may be in the middle of anything.
    pub async fn go_back(&self) {
        self.ask(&["SELECT kept.go_back()"]).await;
    }
}

impl Store {
    /// The same connections for what stands for another process: nothing that this one knows goes along.
    pub fn anew(&self) -> Self {
        Self::of(self.pool().clone(), self.system_pool().clone())
    }
}
