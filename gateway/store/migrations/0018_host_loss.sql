-- Leases under which hosts execute VMs that would be started elsewhere, and proofs that a host executes them no more.

-- The last grant to each host. It is committed before the host is told, so that whoever saw no grant for as long as one
-- holds knows that none does. Off the feed: it changes every few seconds.
CREATE TABLE host_leases (
    host_id uuid CONSTRAINT host_leases_id PRIMARY KEY CONSTRAINT host_leases_host REFERENCES hosts,
    -- Counts the grants: a proof names the last one that it knows of.
    grants bigint NOT NULL,
    agent_boot uuid,
    boot_id text,
    -- What stops VMs there when the lease has run out, as the host said when it asked.
    fencer jsonb,
    granted_at timestamptz NOT NULL
) WITH (fillfactor = 50);
SELECT guard_system('host_leases');

CREATE TABLE host_deaths (
    id uuid CONSTRAINT host_deaths_id PRIMARY KEY,
    host_id uuid NOT NULL CONSTRAINT host_deaths_host REFERENCES hosts,
    kind text NOT NULL CONSTRAINT host_deaths_kind CHECK (kind IN ('lease_expired', 'power_off_confirmed')),
    evidence text NOT NULL,
    boot_id text,
    at timestamptz NOT NULL,
    ended_at timestamptz
);
-- While it stands the host is given no lease.
CREATE UNIQUE INDEX host_deaths_standing ON host_deaths (host_id) WHERE ended_at IS NULL;
CREATE INDEX host_deaths_host_id ON host_deaths (host_id);
SELECT guard_system('host_deaths');
SELECT feed_watch('host_deaths', 'r.id', 'NULL::uuid', 'NULL::uuid');
