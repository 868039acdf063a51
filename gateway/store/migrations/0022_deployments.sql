-- Deployments: what is wanted, what was tried, what was seen at the platforms.

CREATE TABLE deployments (
    id uuid CONSTRAINT deployments_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    -- Out of the spec, for whoever asks what an artifact is used by.
    target_kind text NOT NULL,
    target_name text NOT NULL,
    target_tag text NOT NULL,
    provider_id uuid NOT NULL,
    -- The last word of somebody who asked for one more attempt.
    force_token uuid,
    -- It is forgotten without being taken away.
    orphan boolean NOT NULL DEFAULT false,
    -- What ran at the provider before, and is taken over.
    adopts jsonb,
    CONSTRAINT deployments_name UNIQUE (project_id, name),
    CONSTRAINT deployments_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id),
    CONSTRAINT deployments_provider FOREIGN KEY (provider_id, project_id) REFERENCES providers (id, project_id)
);
CREATE INDEX deployments_target ON deployments (project_id, target_kind, target_name, target_tag);
CREATE INDEX deployments_of_provider ON deployments (provider_id);
SELECT guard_tenant('deployments', 'SELECT, INSERT, UPDATE');

-- Written by the reconciler alone.
CREATE TABLE deployment_status (
    deployment_id uuid CONSTRAINT deployment_status_id PRIMARY KEY
        CONSTRAINT deployment_status_deployment REFERENCES deployments ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    -- The newest attempt that began.
    begun bigint NOT NULL DEFAULT 0,
    -- The newest one whose end was written down.
    ended bigint NOT NULL DEFAULT 0,
    attempted jsonb,
    applied jsonb,
    next_retry_at timestamptz,
    -- When it was repaired, within the hour before the last attempt.
    repairs timestamptz[] NOT NULL DEFAULT '{}',
    -- As it was last judged.
    standing jsonb
) WITH (fillfactor = 50);
SELECT guard_tenant('deployment_status', 'SELECT');

-- Who carries out an attempt, and until when. Off the feed: a lease that is renewed each few seconds is no news.
CREATE TABLE deployment_attempts (
    deployment_id uuid CONSTRAINT deployment_attempts_id PRIMARY KEY
        CONSTRAINT deployment_attempts_deployment REFERENCES deployments ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    epoch bigint NOT NULL,
    executor uuid NOT NULL,
    executor_start uuid NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);
SELECT guard_tenant('deployment_attempts', 'SELECT');

-- What came of attempts. Outlives its deployment: why something is gone is asked afterwards.
CREATE TABLE reconcile_events (
    id uuid CONSTRAINT reconcile_events_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    deployment_id uuid NOT NULL,
    completed_at timestamptz NOT NULL,
    event jsonb NOT NULL
);
CREATE INDEX reconcile_events_of ON reconcile_events (deployment_id, id);
CREATE INDEX reconcile_events_age ON reconcile_events (completed_at);
SELECT guard_tenant('reconcile_events', 'SELECT');

-- What platforms show, as they show it: one table for each platform.
CREATE TABLE discovered_local (
    id uuid CONSTRAINT discovered_local_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL CONSTRAINT discovered_local_provider REFERENCES providers ON DELETE CASCADE,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    -- The deployment that is written on it.
    owner uuid,
    -- By itself it is something that runs, and not a part of that.
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    -- Complete looks in a row at which it was not there.
    misses integer NOT NULL DEFAULT 0,
    CONSTRAINT discovered_local_name UNIQUE (provider_id, kind, namespace, name)
);
SELECT guard_tenant('discovered_local', 'SELECT');

CREATE TABLE discovered_kubernetes (
    id uuid CONSTRAINT discovered_kubernetes_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL CONSTRAINT discovered_kubernetes_provider REFERENCES providers ON DELETE CASCADE,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner uuid,
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    misses integer NOT NULL DEFAULT 0,
    CONSTRAINT discovered_kubernetes_name UNIQUE (provider_id, kind, namespace, name)
);
SELECT guard_tenant('discovered_kubernetes', 'SELECT');

-- Looks at providers whose end differed from that of the look before.
CREATE TABLE discovery_runs (
    id uuid CONSTRAINT discovery_runs_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    provider_id uuid NOT NULL CONSTRAINT discovery_runs_provider REFERENCES providers ON DELETE CASCADE,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    found integer,
    error jsonb
);
CREATE INDEX discovery_runs_of ON discovery_runs (provider_id, id);
SELECT guard_tenant('discovery_runs', 'SELECT');

CREATE TABLE provider_status (
    provider_id uuid CONSTRAINT provider_status_id PRIMARY KEY
        CONSTRAINT provider_status_provider REFERENCES providers ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    -- Looks in a row that failed, counted up to where it makes a difference.
    failures integer NOT NULL,
    error jsonb,
    health jsonb,
    changed_at timestamptz NOT NULL
);
SELECT guard_tenant('provider_status', 'SELECT');

-- What is managed and what was found beside it, in one list with one order.
CREATE VIEW deployments_listed WITH (security_invoker = true) AS
    SELECT d.id, d.tenant_id, d.project_id, d.name, d.labels, d.generation, d.created_at, d.updated_at,
        d.deletion_requested_at, 'managed' AS origin, d.spec, d.provider_id, d.force_token, d.orphan, d.adopts,
        NULL::text AS kind, NULL::text AS namespace, NULL::uuid AS owner, NULL::integer AS misses
    FROM deployments d
    UNION ALL
    SELECT x.id, x.tenant_id, x.project_id, x.name, '{}', 1, x.first_seen_at, x.changed_at, NULL,
        CASE WHEN x.owner IS NULL THEN 'discovered' ELSE 'orphaned' END, NULL, x.provider_id, NULL, false, NULL, x.kind,
        x.namespace, x.owner, x.misses
    FROM (SELECT * FROM discovered_local UNION ALL SELECT * FROM discovered_kubernetes) x
    WHERE x.workload AND NOT EXISTS (SELECT FROM deployments d WHERE d.id = x.owner);
GRANT SELECT ON deployments_listed TO basalt_tenant, basalt_system;

SELECT feed_watch('artifacts', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('secrets', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('providers', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('provider_status', 'r.provider_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('deployments', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('deployment_status', 'r.deployment_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('discovered_local', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('discovered_kubernetes', 'r.id', 'r.tenant_id', 'r.project_id');
