-- What deployments are made of: agents and MCP servers by name and tag, secrets, and the providers where they run.

CREATE TABLE artifacts (
    id uuid CONSTRAINT artifacts_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    kind text NOT NULL CONSTRAINT artifacts_kind CHECK (kind IN ('agent', 'server')),
    name text NOT NULL,
    tag text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    -- SHA-256 of what runs: of the spec without what is for people only. It moves with the generation.
    content_hash text NOT NULL,
    CONSTRAINT artifacts_name UNIQUE (project_id, kind, name, tag),
    CONSTRAINT artifacts_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
SELECT guard_tenant('artifacts', 'SELECT, INSERT, UPDATE');

-- The value is sealed (AES-256-GCM) under a key that is not in the database, for this row and this generation alone.
CREATE TABLE secrets (
    id uuid CONSTRAINT secrets_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    key_id bigint NOT NULL,
    nonce bytea NOT NULL,
    sealed bytea NOT NULL,
    CONSTRAINT secrets_name UNIQUE (project_id, name),
    CONSTRAINT secrets_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
SELECT guard_tenant('secrets', 'SELECT, INSERT, UPDATE');

CREATE TABLE providers (
    id uuid CONSTRAINT providers_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    CONSTRAINT providers_name UNIQUE (project_id, name),
    CONSTRAINT providers_id_project UNIQUE (id, project_id),
    CONSTRAINT providers_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
SELECT guard_tenant('providers', 'SELECT, INSERT, UPDATE');
