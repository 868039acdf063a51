-- Starts of an agent that go on trying after a newer one took over: two agents with one identity. The row is removed
-- when none of them tried for a while.
CREATE TABLE agent_conflicts (
    host_id uuid CONSTRAINT agent_conflicts_id PRIMARY KEY CONSTRAINT agent_conflicts_host REFERENCES hosts,
    -- The start that counts.
    agent_boot uuid NOT NULL,
    -- Those that were refused, newest refusal first, at most eight.
    fenced_boots uuid[] NOT NULL,
    since timestamptz NOT NULL,
    tried_at timestamptz NOT NULL
) WITH (fillfactor = 50);
SELECT guard_system('agent_conflicts');
SELECT feed_watch('agent_conflicts', 'r.host_id', 'NULL::uuid', 'NULL::uuid');
