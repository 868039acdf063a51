-- The emptying of hosts. Its VMs and where each is are one document: a drain is read, decided upon and written as a whole.

CREATE TABLE drains (
    id uuid CONSTRAINT drains_id PRIMARY KEY,
    host_id uuid NOT NULL,
    -- By name too: what ended outlives the host.
    host text NOT NULL,
    task_id uuid NOT NULL,
    actor jsonb NOT NULL,
    spec jsonb NOT NULL,
    moves jsonb NOT NULL,
    requested_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    stuck_since timestamptz,
    cancel_requested_at timestamptz,
    ended_at timestamptz,
    outcome jsonb,
    CONSTRAINT drains_ended CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
-- One at a time for each host.
CREATE UNIQUE INDEX drains_live ON drains (host_id) WHERE ended_at IS NULL;
CREATE INDEX drains_host_id ON drains (host_id, id);
CREATE INDEX drains_task_id ON drains (task_id) WHERE ended_at IS NULL;
SELECT guard_system('drains');
SELECT feed_watch('drains', 'r.id', 'NULL::uuid', 'NULL::uuid');

-- The drain that asked for a migration.
ALTER TABLE migrations ADD COLUMN drain_id uuid;
CREATE INDEX migrations_drain_id ON migrations (drain_id) WHERE ended_at IS NULL;
