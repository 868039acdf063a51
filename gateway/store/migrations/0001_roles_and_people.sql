-- Tenancy, people and the record of what they did.
-- The roles themselves are made before the migrations run (they belong to the cluster, not to one database).

-- A row of a tenant: seen and written only inside a transaction that says which tenant it is for.
-- Unset (or empty) context is NULL, and NULL equals nothing: zero rows, never all.
CREATE FUNCTION current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('app.tenant', true), '')::uuid $$;

-- `rights` is what a tenant's transaction may do: 'SELECT' for facts, 'SELECT, INSERT, UPDATE' for intent.
CREATE FUNCTION guard_tenant(guarded regclass, rights text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY tenant_rows ON %s TO basalt_tenant
        USING (tenant_id = (SELECT current_tenant())) WITH CHECK (tenant_id = (SELECT current_tenant()))', guarded);
    EXECUTE format('CREATE POLICY system_rows ON %s TO basalt_system USING (true) WITH CHECK (true)', guarded);
    EXECUTE format('GRANT %s ON %s TO basalt_tenant', rights, guarded);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO basalt_system', guarded);
END $$;

-- A row of the whole system: no tenant's transaction sees it.
CREATE FUNCTION guard_system(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY system_rows ON %s TO basalt_system USING (true) WITH CHECK (true)', guarded);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO basalt_system', guarded);
END $$;

CREATE TABLE tenants (
    id uuid CONSTRAINT tenants_id PRIMARY KEY,
    -- Equals id: the policy of every tenant table reads this column.
    tenant_id uuid NOT NULL GENERATED ALWAYS AS (id) STORED,
    name text NOT NULL CONSTRAINT tenants_name UNIQUE,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz
);
SELECT guard_tenant('tenants', 'SELECT');

CREATE TABLE projects (
    id uuid CONSTRAINT projects_id PRIMARY KEY,
    tenant_id uuid NOT NULL CONSTRAINT projects_tenant REFERENCES tenants,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    CONSTRAINT projects_name UNIQUE (tenant_id, name),
    CONSTRAINT projects_id_tenant UNIQUE (id, tenant_id)
);
SELECT guard_tenant('projects', 'SELECT');

-- Limits may be set below what is used: then nothing new fits. The claim itself is one conditional UPDATE.
CREATE TABLE quotas (
    project_id uuid CONSTRAINT quotas_id PRIMARY KEY CONSTRAINT quotas_project REFERENCES projects,
    tenant_id uuid NOT NULL,
    max_vms bigint NOT NULL,
    max_cpus bigint NOT NULL,
    max_memory_bytes bigint NOT NULL,
    max_storage_bytes bigint NOT NULL,
    used_vms bigint NOT NULL DEFAULT 0 CONSTRAINT quota_vms CHECK (used_vms >= 0),
    used_cpus bigint NOT NULL DEFAULT 0 CONSTRAINT quota_cpus CHECK (used_cpus >= 0),
    used_memory_bytes bigint NOT NULL DEFAULT 0 CONSTRAINT quota_memory CHECK (used_memory_bytes >= 0),
    used_storage_bytes bigint NOT NULL DEFAULT 0 CONSTRAINT quota_storage CHECK (used_storage_bytes >= 0)
) WITH (fillfactor = 50);
SELECT guard_tenant('quotas', 'SELECT, UPDATE');

CREATE TABLE users (
    id uuid CONSTRAINT users_id PRIMARY KEY,
    name text NOT NULL CONSTRAINT users_name UNIQUE,
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL
);
SELECT guard_system('users');

-- Printed once at the first start; creates the first administrator.
CREATE TABLE first_boot_tokens (
    hash bytea CONSTRAINT first_boot_tokens_hash PRIMARY KEY,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
SELECT guard_system('first_boot_tokens');

-- Bearer tokens, by digest. With a user it is a session, without one it belongs to a program.
CREATE TABLE service_tokens (
    id uuid CONSTRAINT service_tokens_id PRIMARY KEY,
    name text NOT NULL,
    hash bytea NOT NULL CONSTRAINT service_tokens_hash UNIQUE,
    user_id uuid CONSTRAINT service_tokens_user REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE UNIQUE INDEX service_tokens_name ON service_tokens (name) WHERE user_id IS NULL AND revoked_at IS NULL;
CREATE INDEX service_tokens_user_id ON service_tokens (user_id) WHERE user_id IS NOT NULL;
SELECT guard_system('service_tokens');

CREATE TABLE role_bindings (
    id uuid CONSTRAINT role_bindings_id PRIMARY KEY,
    principal_id uuid NOT NULL,
    role text NOT NULL CONSTRAINT role_bindings_role CHECK (role IN ('viewer', 'operator', 'admin')),
    tenant_id uuid CONSTRAINT role_bindings_tenant REFERENCES tenants,
    project_id uuid CONSTRAINT role_bindings_project REFERENCES projects,
    created_at timestamptz NOT NULL,
    CONSTRAINT role_bindings_scope CHECK (project_id IS NULL OR tenant_id IS NOT NULL),
    CONSTRAINT role_bindings_once UNIQUE NULLS NOT DISTINCT (principal_id, role, tenant_id, project_id)
);
SELECT guard_system('role_bindings');

-- No foreign keys: the trail outlives what it is about.
CREATE TABLE audit_events (
    id uuid CONSTRAINT audit_events_id PRIMARY KEY,
    at timestamptz NOT NULL,
    tenant_id uuid,
    project_id uuid,
    actor_kind text NOT NULL,
    actor_id uuid NOT NULL,
    actor_name text NOT NULL,
    action text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid NOT NULL,
    subject_name text NOT NULL,
    request_id text
);
CREATE INDEX audit_events_project ON audit_events (project_id, id);
CREATE INDEX audit_events_subject ON audit_events (subject_id, id);
SELECT guard_tenant('audit_events', 'SELECT, INSERT');
-- The trail is written and read, never changed.
REVOKE UPDATE, DELETE ON audit_events FROM basalt_system;

CREATE TABLE idempotency_keys (
    principal_id uuid NOT NULL,
    key text NOT NULL,
    tenant_id uuid,
    digest bytea NOT NULL,
    created_at timestamptz NOT NULL,
    status integer,
    location text,
    body jsonb,
    CONSTRAINT idempotency_keys_id PRIMARY KEY (principal_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
SELECT guard_tenant('idempotency_keys', 'SELECT, INSERT, UPDATE');

-- Who may run a thing that must run once. The epoch fences a holder that woke up late.
CREATE TABLE leases (
    name text CONSTRAINT leases_name PRIMARY KEY,
    holder uuid NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
SELECT guard_system('leases');

-- A piece of work somebody waits for. No foreign keys: it outlives its subject.
CREATE TABLE tasks (
    id uuid CONSTRAINT tasks_id PRIMARY KEY,
    tenant_id uuid,
    project_id uuid,
    kind text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid NOT NULL,
    subject_name text NOT NULL,
    generation bigint NOT NULL,
    state text NOT NULL CONSTRAINT tasks_state
        CHECK (state IN ('pending', 'executing', 'completed', 'failed', 'timed_out', 'cancelled')),
    progress integer NOT NULL CONSTRAINT tasks_progress CHECK (progress BETWEEN 0 AND 100),
    stage text NOT NULL,
    error jsonb,
    depends_on uuid[] NOT NULL,
    deadline timestamptz NOT NULL,
    attempt integer NOT NULL,
    actor jsonb NOT NULL,
    -- What the intent was before, so that a cancel can turn it back.
    undo jsonb,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT tasks_ended CHECK ((state IN ('pending', 'executing')) = (finished_at IS NULL))
);
CREATE INDEX tasks_live_deadline ON tasks (deadline) WHERE finished_at IS NULL;
CREATE INDEX tasks_subject ON tasks (subject_id, id);
CREATE INDEX tasks_project ON tasks (project_id, id);
SELECT guard_tenant('tasks', 'SELECT, INSERT, UPDATE');

CREATE TABLE task_logs (
    task_id uuid NOT NULL CONSTRAINT task_logs_task REFERENCES tasks ON DELETE CASCADE,
    seq bigint NOT NULL,
    tenant_id uuid,
    at timestamptz NOT NULL,
    line text NOT NULL,
    CONSTRAINT task_logs_id PRIMARY KEY (task_id, seq)
);
SELECT guard_tenant('task_logs', 'SELECT');
