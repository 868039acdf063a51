-- Work tasks: what an executor carries out under a lease. A row stands beside its live task; who may act is said here and
-- nowhere else. Off the feed: a lease that is renewed each few seconds is no news.
CREATE TABLE task_work (
    task_id uuid CONSTRAINT task_work_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    kind text NOT NULL,
    -- From when on it may be claimed: at once, when the lease of who has it is over, or after a pause.
    available_at timestamptz NOT NULL,
    -- Fencing token: grows with every claim, and only what names the newest one counts.
    fence bigint NOT NULL DEFAULT 0,
    -- Names the newest claim; none once it was given back.
    claim_id uuid,
    -- Who has it, and which of its starts: what an earlier start of an executor had, its next start takes over at once.
    executor uuid,
    executor_start uuid
) WITH (fillfactor = 50);
CREATE INDEX task_work_available ON task_work (kind, available_at);
SELECT guard_tenant('task_work', 'SELECT, INSERT');
