-- Hosts, their pools, and what they were told to have.

CREATE TABLE hosts (
    id uuid CONSTRAINT hosts_id PRIMARY KEY,
    name text NOT NULL CONSTRAINT hosts_name UNIQUE,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL
);
SELECT guard_system('hosts');

CREATE TABLE host_facts (
    host_id uuid CONSTRAINT host_facts_id PRIMARY KEY CONSTRAINT host_facts_host REFERENCES hosts,
    facts jsonb NOT NULL,
    reported_at timestamptz NOT NULL
);
SELECT guard_system('host_facts');

-- Signs of life: one multi-row write every few seconds, worthless after a crash, so neither logged nor watched.
CREATE UNLOGGED TABLE host_heartbeats (
    host_id uuid CONSTRAINT host_heartbeats_id PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);
SELECT guard_system('host_heartbeats');

-- Which start of the agent speaks for a host, and how far it got.
CREATE TABLE host_links (
    host_id uuid CONSTRAINT host_links_id PRIMARY KEY CONSTRAINT host_links_host REFERENCES hosts,
    agent_boot uuid NOT NULL,
    -- The starts before it, newest first: what still arrives from them is late.
    former_boots uuid[] NOT NULL DEFAULT '{}',
    sequence bigint NOT NULL,
    manifest_revision bigint,
    manifest_refused jsonb,
    -- A fact was forgotten because its item came back: the agent must say everything again.
    send_full boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
SELECT guard_system('host_links');

-- What a host can promise, and what it promised to the VMs placed on it.
CREATE TABLE host_claims (
    host_id uuid CONSTRAINT host_claims_id PRIMARY KEY CONSTRAINT host_claims_host REFERENCES hosts,
    max_cpus bigint NOT NULL,
    max_memory_bytes bigint NOT NULL,
    claimed_vms bigint NOT NULL DEFAULT 0 CONSTRAINT host_vms CHECK (claimed_vms >= 0),
    claimed_cpus bigint NOT NULL DEFAULT 0 CONSTRAINT host_cpus CHECK (claimed_cpus >= 0),
    claimed_memory_bytes bigint NOT NULL DEFAULT 0 CONSTRAINT host_memory CHECK (claimed_memory_bytes >= 0)
) WITH (fillfactor = 50);
SELECT guard_system('host_claims');

-- One-time tokens, by digest: at most one a host.
CREATE TABLE join_tokens (
    host_id uuid CONSTRAINT join_tokens_id PRIMARY KEY CONSTRAINT join_tokens_host REFERENCES hosts,
    hash bytea NOT NULL CONSTRAINT join_tokens_hash UNIQUE,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
SELECT guard_system('join_tokens');

CREATE TABLE host_certificates (
    serial text CONSTRAINT host_certificates_id PRIMARY KEY,
    host_id uuid NOT NULL CONSTRAINT host_certificates_host REFERENCES hosts,
    issued_at timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX host_certificates_host_id ON host_certificates (host_id);
SELECT guard_system('host_certificates');

CREATE TABLE pools (
    id uuid CONSTRAINT pools_id PRIMARY KEY,
    host_id uuid NOT NULL CONSTRAINT pools_host REFERENCES hosts,
    name text NOT NULL,
    facts jsonb NOT NULL,
    capacity_bytes bigint NOT NULL,
    claimed_bytes bigint NOT NULL DEFAULT 0 CONSTRAINT pool_room CHECK (claimed_bytes >= 0),
    updated_at timestamptz NOT NULL,
    CONSTRAINT pools_name UNIQUE (host_id, name)
);
SELECT guard_system('pools');

CREATE TABLE manifests (
    host_id uuid CONSTRAINT manifests_id PRIMARY KEY CONSTRAINT manifests_host REFERENCES hosts,
    revision bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
SELECT guard_system('manifests');

-- An item leaves only after the host reported it gone; until then it stands here as absent.
CREATE TABLE manifest_items (
    host_id uuid NOT NULL CONSTRAINT manifest_items_manifest REFERENCES manifests,
    kind text NOT NULL CONSTRAINT manifest_items_kind CHECK (kind IN ('network', 'image', 'volume', 'vm')),
    id uuid NOT NULL,
    generation bigint NOT NULL,
    epoch bigint NOT NULL,
    present boolean NOT NULL,
    body jsonb NOT NULL,
    -- The revision in which it last changed.
    revision bigint NOT NULL,
    CONSTRAINT manifest_items_id PRIMARY KEY (host_id, kind, id)
);
CREATE INDEX manifest_items_object ON manifest_items (id);
SELECT guard_system('manifest_items');

-- What each host last said of each item, by whatever generation and epoch it acted on.
CREATE TABLE manifest_facts (
    host_id uuid NOT NULL CONSTRAINT manifest_facts_host REFERENCES hosts,
    kind text NOT NULL CONSTRAINT manifest_facts_kind CHECK (kind IN ('network', 'image', 'volume', 'vm')),
    id uuid NOT NULL,
    generation bigint NOT NULL,
    epoch bigint NOT NULL,
    gone boolean NOT NULL,
    observed jsonb NOT NULL,
    stage text NOT NULL,
    reported_at timestamptz NOT NULL,
    CONSTRAINT manifest_facts_id PRIMARY KEY (host_id, kind, id)
);
CREATE INDEX manifest_facts_object ON manifest_facts (id);
SELECT guard_system('manifest_facts');
