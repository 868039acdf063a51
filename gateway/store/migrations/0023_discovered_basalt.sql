-- What projects of Basalt show, where deployments run in VMs; in the list of deployments like what other platforms show.

CREATE TABLE discovered_basalt (
    id uuid CONSTRAINT discovered_basalt_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL CONSTRAINT discovered_basalt_provider REFERENCES providers ON DELETE CASCADE,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner uuid,
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    misses integer NOT NULL DEFAULT 0,
    CONSTRAINT discovered_basalt_name UNIQUE (provider_id, kind, namespace, name)
);
SELECT guard_tenant('discovered_basalt', 'SELECT');

CREATE OR REPLACE VIEW deployments_listed WITH (security_invoker = true) AS
    SELECT d.id, d.tenant_id, d.project_id, d.name, d.labels, d.generation, d.created_at, d.updated_at,
        d.deletion_requested_at, 'managed' AS origin, d.spec, d.provider_id, d.force_token, d.orphan, d.adopts,
        NULL::text AS kind, NULL::text AS namespace, NULL::uuid AS owner, NULL::integer AS misses
    FROM deployments d
    UNION ALL
    SELECT x.id, x.tenant_id, x.project_id, x.name, '{}', 1, x.first_seen_at, x.changed_at, NULL,
        CASE WHEN x.owner IS NULL THEN 'discovered' ELSE 'orphaned' END, NULL, x.provider_id, NULL, false, NULL, x.kind,
        x.namespace, x.owner, x.misses
    FROM (SELECT * FROM discovered_local UNION ALL SELECT * FROM discovered_kubernetes
        UNION ALL SELECT * FROM discovered_basalt) x
    WHERE x.workload AND NOT EXISTS (SELECT FROM deployments d WHERE d.id = x.owner);

SELECT feed_watch('discovered_basalt', 'r.id', 'r.tenant_id', 'r.project_id');
