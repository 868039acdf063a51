-- Generated from the catalog of a freshly migrated database; BASALT_BLESS=1 writes it anew.

-- tables

LOGGED TABLE address_cursors (
    network_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    first_address bigint NOT NULL,
    last_address bigint NOT NULL,
    gateway bigint NOT NULL,
    next_address bigint NOT NULL,
    used bigint NOT NULL DEFAULT 0,
    closed boolean NOT NULL DEFAULT false
);
LOGGED TABLE agent_conflicts (
    host_id uuid NOT NULL,
    agent_boot uuid NOT NULL,
    fenced_boots uuid[] NOT NULL,
    since timestamp with time zone NOT NULL,
    tried_at timestamp with time zone NOT NULL
);
LOGGED TABLE artifacts (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    tag text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    content_hash text NOT NULL
);
LOGGED TABLE audit_events (
    id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
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
UNLOGGED TABLE change_log (
    xid xid8 NOT NULL,
    seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL,
    key text NOT NULL,
    op text NOT NULL,
    tenant_id uuid,
    project_id uuid
);
LOGGED TABLE conditions (
    subject_id uuid NOT NULL,
    subject_kind text NOT NULL,
    tenant_id uuid,
    project_id uuid,
    conditions json NOT NULL
);
LOGGED TABLE deployment_attempts (
    deployment_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    epoch bigint NOT NULL,
    executor uuid NOT NULL,
    executor_start uuid NOT NULL,
    lease_until timestamp with time zone NOT NULL
);
LOGGED TABLE deployment_status (
    deployment_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    begun bigint NOT NULL DEFAULT 0,
    ended bigint NOT NULL DEFAULT 0,
    attempted jsonb,
    applied jsonb,
    next_retry_at timestamp with time zone,
    repairs timestamp with time zone[] NOT NULL DEFAULT '{}'::timestamp with time zone[],
    standing jsonb
);
LOGGED TABLE deployments (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    target_kind text NOT NULL,
    target_name text NOT NULL,
    target_tag text NOT NULL,
    provider_id uuid NOT NULL,
    force_token uuid,
    orphan boolean NOT NULL DEFAULT false,
    adopts jsonb
);
LOGGED TABLE discovered_basalt (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner uuid,
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    misses integer NOT NULL DEFAULT 0
);
LOGGED TABLE discovered_kubernetes (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner uuid,
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    misses integer NOT NULL DEFAULT 0
);
LOGGED TABLE discovered_local (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    provider_id uuid NOT NULL,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner uuid,
    workload boolean NOT NULL,
    raw jsonb NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    misses integer NOT NULL DEFAULT 0
);
LOGGED TABLE discovery_runs (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    provider_id uuid NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    found integer,
    error jsonb
);
LOGGED TABLE drains (
    id uuid NOT NULL,
    host_id uuid NOT NULL,
    host text NOT NULL,
    task_id uuid NOT NULL,
    actor jsonb NOT NULL,
    spec jsonb NOT NULL,
    moves jsonb NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    stuck_since timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    ended_at timestamp with time zone,
    outcome jsonb
);
LOGGED TABLE feed_cursors (
    holder uuid NOT NULL,
    horizon xid8 NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
LOGGED TABLE feed_retention (
    singleton boolean NOT NULL,
    pruned_below xid8 NOT NULL
);
LOGGED TABLE first_boot_tokens (
    hash bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);
LOGGED TABLE host_certificates (
    serial text NOT NULL,
    host_id uuid NOT NULL,
    issued_at timestamp with time zone NOT NULL,
    not_after timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone
);
LOGGED TABLE host_claims (
    host_id uuid NOT NULL,
    max_cpus bigint NOT NULL,
    max_memory_bytes bigint NOT NULL,
    claimed_vms bigint NOT NULL DEFAULT 0,
    claimed_cpus bigint NOT NULL DEFAULT 0,
    claimed_memory_bytes bigint NOT NULL DEFAULT 0
);
LOGGED TABLE host_deaths (
    id uuid NOT NULL,
    host_id uuid NOT NULL,
    kind text NOT NULL,
    evidence text NOT NULL,
    boot_id text,
    at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone
);
LOGGED TABLE host_facts (
    host_id uuid NOT NULL,
    facts jsonb NOT NULL,
    reported_at timestamp with time zone NOT NULL
);
UNLOGGED TABLE host_heartbeats (
    host_id uuid NOT NULL,
    seen_at timestamp with time zone NOT NULL
);
LOGGED TABLE host_leases (
    host_id uuid NOT NULL,
    grants bigint NOT NULL,
    agent_boot uuid,
    boot_id text,
    fencer jsonb,
    granted_at timestamp with time zone NOT NULL
);
LOGGED TABLE host_links (
    host_id uuid NOT NULL,
    agent_boot uuid NOT NULL,
    former_boots uuid[] NOT NULL DEFAULT '{}'::uuid[],
    sequence bigint NOT NULL,
    manifest_revision bigint,
    manifest_refused jsonb,
    send_full boolean NOT NULL DEFAULT false
);
LOGGED TABLE host_logs (
    host_id uuid NOT NULL,
    agent_boot uuid NOT NULL,
    sequence bigint NOT NULL
);
LOGGED TABLE hosts (
    id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL
);
LOGGED TABLE idempotency_keys (
    principal_id uuid NOT NULL,
    key text NOT NULL,
    tenant_id uuid,
    digest bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    status integer,
    location text,
    body jsonb
);
LOGGED TABLE image_events (
    id uuid NOT NULL,
    image_id uuid NOT NULL,
    applied_at timestamp with time zone NOT NULL
);
LOGGED TABLE image_observed (
    image_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    observed jsonb NOT NULL,
    reported_at timestamp with time zone NOT NULL
);
LOGGED TABLE images (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    shared boolean NOT NULL
);
LOGGED TABLE join_tokens (
    host_id uuid NOT NULL,
    hash bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);
LOGGED TABLE leases (
    name text NOT NULL,
    holder uuid NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
LOGGED TABLE manifest_facts (
    host_id uuid NOT NULL,
    kind text NOT NULL,
    id uuid NOT NULL,
    generation bigint NOT NULL,
    epoch bigint NOT NULL,
    gone boolean NOT NULL,
    observed jsonb NOT NULL,
    stage text NOT NULL,
    reported_at timestamp with time zone NOT NULL
);
LOGGED TABLE manifest_items (
    host_id uuid NOT NULL,
    kind text NOT NULL,
    id uuid NOT NULL,
    generation bigint NOT NULL,
    epoch bigint NOT NULL,
    present boolean NOT NULL,
    body json NOT NULL,
    revision bigint NOT NULL
);
LOGGED TABLE manifests (
    host_id uuid NOT NULL,
    revision bigint NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
LOGGED TABLE migrations (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    vm_id uuid NOT NULL,
    vm text NOT NULL,
    task_id uuid NOT NULL,
    spec jsonb NOT NULL,
    mode text NOT NULL,
    source_host_id uuid NOT NULL,
    source text NOT NULL,
    source_epoch bigint NOT NULL,
    target_host_id uuid,
    target text,
    pools jsonb NOT NULL DEFAULT '{}'::jsonb,
    copies_storage boolean NOT NULL DEFAULT false,
    claimed_cpus bigint NOT NULL DEFAULT 0,
    claimed_memory_bytes bigint NOT NULL DEFAULT 0,
    claimed_pools jsonb NOT NULL DEFAULT '{}'::jsonb,
    begun_at timestamp with time zone,
    closed_at timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    requested_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    outcome jsonb,
    drain_id uuid
);
LOGGED TABLE networks (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    cidr cidr NOT NULL,
    vni integer NOT NULL DEFAULT nextval('network_vnis'::regclass),
    security_groups jsonb NOT NULL DEFAULT '[]'::jsonb,
    uplink text GENERATED ALWAYS AS ((spec #>> '{segment,uplink}'::text[])),
    vlan_id integer GENERATED ALWAYS AS (((spec #>> '{segment,vlan_id}'::text[]))::integer),
    cidr6 cidr GENERATED ALWAYS AS (((spec ->> 'cidr6'::text))::cidr)
);
LOGGED TABLE placements (
    vm_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid,
    host text,
    epoch bigint NOT NULL,
    generation bigint NOT NULL,
    explanation jsonb NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    claimed_cpus bigint NOT NULL,
    claimed_memory_bytes bigint NOT NULL
);
LOGGED TABLE pools (
    id uuid NOT NULL,
    host_id uuid NOT NULL,
    name text NOT NULL,
    facts jsonb NOT NULL,
    capacity_bytes bigint NOT NULL,
    claimed_bytes bigint NOT NULL DEFAULT 0,
    updated_at timestamp with time zone NOT NULL
);
LOGGED TABLE ports (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    network_id uuid NOT NULL,
    vm_id uuid,
    nic_index integer,
    mac text,
    address inet NOT NULL,
    router_id uuid
);
LOGGED TABLE projects (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone
);
LOGGED TABLE provider_status (
    provider_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    failures integer NOT NULL,
    error jsonb,
    health jsonb,
    changed_at timestamp with time zone NOT NULL
);
LOGGED TABLE providers (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL
);
LOGGED TABLE quotas (
    project_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    max_vms bigint NOT NULL,
    max_cpus bigint NOT NULL,
    max_memory_bytes bigint NOT NULL,
    max_storage_bytes bigint NOT NULL,
    used_vms bigint NOT NULL DEFAULT 0,
    used_cpus bigint NOT NULL DEFAULT 0,
    used_memory_bytes bigint NOT NULL DEFAULT 0,
    used_storage_bytes bigint NOT NULL DEFAULT 0
);
LOGGED TABLE reconcile_events (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    deployment_id uuid NOT NULL,
    completed_at timestamp with time zone NOT NULL,
    event jsonb NOT NULL
);
LOGGED TABLE role_bindings (
    id uuid NOT NULL,
    principal_id uuid NOT NULL,
    role text NOT NULL,
    tenant_id uuid,
    project_id uuid,
    created_at timestamp with time zone NOT NULL
);
LOGGED TABLE router_interfaces (
    network_id uuid NOT NULL,
    router_id uuid NOT NULL,
    tenant_id uuid NOT NULL
);
LOGGED TABLE router_placements (
    router_id uuid NOT NULL,
    slot smallint NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL,
    host text NOT NULL,
    vrid smallint NOT NULL,
    decided_at timestamp with time zone NOT NULL
);
LOGGED TABLE router_vms (
    router_id uuid NOT NULL,
    vm_id uuid NOT NULL,
    tenant_id uuid NOT NULL
);
LOGGED TABLE routers (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    wiring jsonb NOT NULL
);
LOGGED TABLE secrets (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    key_id bigint NOT NULL,
    nonce bytea NOT NULL,
    sealed bytea NOT NULL
);
LOGGED TABLE security_group_uses (
    group_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    network_id uuid,
    vm_id uuid,
    rules_of uuid
);
LOGGED TABLE security_groups (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    named jsonb NOT NULL
);
LOGGED TABLE service_tokens (
    id uuid NOT NULL,
    name text NOT NULL,
    hash bytea NOT NULL,
    user_id uuid,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone
);
LOGGED TABLE task_logs (
    task_id uuid NOT NULL,
    seq bigint NOT NULL,
    tenant_id uuid,
    at timestamp with time zone NOT NULL,
    line text NOT NULL
);
LOGGED TABLE task_logs_other (
    task_id uuid NOT NULL,
    seq bigint NOT NULL,
    tenant_id uuid,
    at timestamp with time zone NOT NULL,
    line text NOT NULL
);
LOGGED TABLE task_work (
    task_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    kind text NOT NULL,
    available_at timestamp with time zone NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    claim_id uuid,
    executor uuid,
    executor_start uuid
);
LOGGED TABLE tasks (
    id uuid NOT NULL,
    tenant_id uuid,
    project_id uuid,
    kind text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid NOT NULL,
    subject_name text NOT NULL,
    generation bigint NOT NULL,
    state text NOT NULL,
    progress integer NOT NULL,
    stage text NOT NULL,
    error jsonb,
    depends_on uuid[] NOT NULL,
    deadline timestamp with time zone NOT NULL,
    attempt integer NOT NULL,
    actor jsonb NOT NULL,
    undo jsonb,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    held jsonb,
    retry_of uuid
);
LOGGED TABLE tasks_finished (
    id uuid NOT NULL,
    tenant_id uuid,
    project_id uuid,
    kind text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid NOT NULL,
    subject_name text NOT NULL,
    generation bigint NOT NULL,
    state text NOT NULL,
    progress integer NOT NULL,
    stage text NOT NULL,
    error jsonb,
    depends_on uuid[] NOT NULL,
    deadline timestamp with time zone NOT NULL,
    attempt integer NOT NULL,
    actor jsonb NOT NULL,
    undo jsonb,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    held jsonb,
    retry_of uuid
);
LOGGED TABLE tasks_finished_other (
    id uuid NOT NULL,
    tenant_id uuid,
    project_id uuid,
    kind text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid NOT NULL,
    subject_name text NOT NULL,
    generation bigint NOT NULL,
    state text NOT NULL,
    progress integer NOT NULL,
    stage text NOT NULL,
    error jsonb,
    depends_on uuid[] NOT NULL,
    deadline timestamp with time zone NOT NULL,
    attempt integer NOT NULL,
    actor jsonb NOT NULL,
    undo jsonb,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    held jsonb,
    retry_of uuid
);
LOGGED TABLE tenants (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL GENERATED ALWAYS AS (id),
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone
);
LOGGED TABLE transfers (
    id uuid NOT NULL,
    image_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    direction text NOT NULL,
    host_id uuid,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
LOGGED TABLE users (
    id uuid NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
LOGGED TABLE vm_observed (
    vm_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL,
    epoch bigint NOT NULL,
    observed_generation bigint NOT NULL,
    observed json NOT NULL,
    stage text NOT NULL,
    reported_at timestamp with time zone NOT NULL
);
LOGGED TABLE vms (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec json NOT NULL,
    incarnation bigint NOT NULL,
    operation json,
    nics json NOT NULL,
    disks json NOT NULL,
    placement_rules jsonb
);
LOGGED TABLE volume_observed (
    volume_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL,
    observed_generation bigint NOT NULL,
    observed jsonb NOT NULL,
    stage text NOT NULL,
    reported_at timestamp with time zone NOT NULL
);
LOGGED TABLE volumes (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    deletion_requested_at timestamp with time zone,
    spec jsonb NOT NULL,
    size_bytes bigint NOT NULL,
    image_id uuid,
    vm_id uuid,
    owned boolean NOT NULL,
    host_id uuid,
    pool text,
    incarnation bigint NOT NULL
);

-- partitions

PARTITION task_logs_other OF task_logs DEFAULT;
PARTITION tasks_finished_other OF tasks_finished DEFAULT;
TABLE task_logs PARTITION BY RANGE (task_id);
TABLE tasks_finished PARTITION BY RANGE (id);

-- constraints

CONSTRAINT address_cursors_id ON address_cursors PRIMARY KEY (network_id);
CONSTRAINT address_cursors_network ON address_cursors FOREIGN KEY (network_id) REFERENCES networks(id) ON DELETE CASCADE;
CONSTRAINT address_cursors_used ON address_cursors CHECK ((used >= 0));
CONSTRAINT agent_conflicts_host ON agent_conflicts FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT agent_conflicts_id ON agent_conflicts PRIMARY KEY (host_id);
CONSTRAINT artifacts_id ON artifacts PRIMARY KEY (id);
CONSTRAINT artifacts_kind ON artifacts CHECK ((kind = ANY (ARRAY['agent'::text, 'server'::text])));
CONSTRAINT artifacts_name ON artifacts UNIQUE (project_id, kind, name, tag);
CONSTRAINT artifacts_project ON artifacts FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT audit_events_id ON audit_events PRIMARY KEY (id);
CONSTRAINT conditions_id ON conditions PRIMARY KEY (subject_id);
CONSTRAINT deployment_attempts_deployment ON deployment_attempts FOREIGN KEY (deployment_id) REFERENCES deployments(id) ON DELETE CASCADE;
CONSTRAINT deployment_attempts_id ON deployment_attempts PRIMARY KEY (deployment_id);
CONSTRAINT deployment_status_deployment ON deployment_status FOREIGN KEY (deployment_id) REFERENCES deployments(id) ON DELETE CASCADE;
CONSTRAINT deployment_status_id ON deployment_status PRIMARY KEY (deployment_id);
CONSTRAINT deployments_id ON deployments PRIMARY KEY (id);
CONSTRAINT deployments_name ON deployments UNIQUE (project_id, name);
CONSTRAINT deployments_project ON deployments FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT deployments_provider ON deployments FOREIGN KEY (provider_id, project_id) REFERENCES providers(id, project_id);
CONSTRAINT discovered_basalt_id ON discovered_basalt PRIMARY KEY (id);
CONSTRAINT discovered_basalt_name ON discovered_basalt UNIQUE (provider_id, kind, namespace, name);
CONSTRAINT discovered_basalt_provider ON discovered_basalt FOREIGN KEY (provider_id) REFERENCES providers(id) ON DELETE CASCADE;
CONSTRAINT discovered_kubernetes_id ON discovered_kubernetes PRIMARY KEY (id);
CONSTRAINT discovered_kubernetes_name ON discovered_kubernetes UNIQUE (provider_id, kind, namespace, name);
CONSTRAINT discovered_kubernetes_provider ON discovered_kubernetes FOREIGN KEY (provider_id) REFERENCES providers(id) ON DELETE CASCADE;
CONSTRAINT discovered_local_id ON discovered_local PRIMARY KEY (id);
CONSTRAINT discovered_local_name ON discovered_local UNIQUE (provider_id, kind, namespace, name);
CONSTRAINT discovered_local_provider ON discovered_local FOREIGN KEY (provider_id) REFERENCES providers(id) ON DELETE CASCADE;
CONSTRAINT discovery_runs_id ON discovery_runs PRIMARY KEY (id);
CONSTRAINT discovery_runs_provider ON discovery_runs FOREIGN KEY (provider_id) REFERENCES providers(id) ON DELETE CASCADE;
CONSTRAINT drains_ended ON drains CHECK (((ended_at IS NULL) = (outcome IS NULL)));
CONSTRAINT drains_id ON drains PRIMARY KEY (id);
CONSTRAINT feed_cursors_id ON feed_cursors PRIMARY KEY (holder);
CONSTRAINT feed_retention_id ON feed_retention PRIMARY KEY (singleton);
CONSTRAINT feed_retention_one ON feed_retention CHECK (singleton);
CONSTRAINT first_boot_tokens_hash ON first_boot_tokens PRIMARY KEY (hash);
CONSTRAINT host_certificates_host ON host_certificates FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_certificates_id ON host_certificates PRIMARY KEY (serial);
CONSTRAINT host_claims_host ON host_claims FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_claims_id ON host_claims PRIMARY KEY (host_id);
CONSTRAINT host_cpus ON host_claims CHECK ((claimed_cpus >= 0));
CONSTRAINT host_memory ON host_claims CHECK ((claimed_memory_bytes >= 0));
CONSTRAINT host_vms ON host_claims CHECK ((claimed_vms >= 0));
CONSTRAINT host_deaths_host ON host_deaths FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_deaths_id ON host_deaths PRIMARY KEY (id);
CONSTRAINT host_deaths_kind ON host_deaths CHECK ((kind = ANY (ARRAY['lease_expired'::text, 'power_off_confirmed'::text])));
CONSTRAINT host_facts_host ON host_facts FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_facts_id ON host_facts PRIMARY KEY (host_id);
CONSTRAINT host_heartbeats_id ON host_heartbeats PRIMARY KEY (host_id);
CONSTRAINT host_leases_host ON host_leases FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_leases_id ON host_leases PRIMARY KEY (host_id);
CONSTRAINT host_links_host ON host_links FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_links_id ON host_links PRIMARY KEY (host_id);
CONSTRAINT host_logs_host ON host_logs FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT host_logs_id ON host_logs PRIMARY KEY (host_id);
CONSTRAINT hosts_id ON hosts PRIMARY KEY (id);
CONSTRAINT hosts_name ON hosts UNIQUE (name);
CONSTRAINT idempotency_keys_id ON idempotency_keys PRIMARY KEY (principal_id, key);
CONSTRAINT image_events_id ON image_events PRIMARY KEY (id);
CONSTRAINT image_observed_id ON image_observed PRIMARY KEY (image_id);
CONSTRAINT image_observed_image ON image_observed FOREIGN KEY (image_id) REFERENCES images(id);
CONSTRAINT images_id ON images PRIMARY KEY (id);
CONSTRAINT images_name ON images UNIQUE (project_id, name);
CONSTRAINT images_project ON images FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT join_tokens_hash ON join_tokens UNIQUE (hash);
CONSTRAINT join_tokens_host ON join_tokens FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT join_tokens_id ON join_tokens PRIMARY KEY (host_id);
CONSTRAINT leases_name ON leases PRIMARY KEY (name);
CONSTRAINT manifest_facts_host ON manifest_facts FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT manifest_facts_id ON manifest_facts PRIMARY KEY (host_id, kind, id);
CONSTRAINT manifest_facts_kind ON manifest_facts CHECK ((kind = ANY (ARRAY['router'::text, 'security_group'::text, 'network'::text, 'image'::text, 'volume'::text, 'vm'::text])));
CONSTRAINT manifest_items_id ON manifest_items PRIMARY KEY (host_id, kind, id);
CONSTRAINT manifest_items_kind ON manifest_items CHECK ((kind = ANY (ARRAY['router'::text, 'security_group'::text, 'network'::text, 'image'::text, 'volume'::text, 'vm'::text])));
CONSTRAINT manifest_items_manifest ON manifest_items FOREIGN KEY (host_id) REFERENCES manifests(host_id);
CONSTRAINT manifests_host ON manifests FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT manifests_id ON manifests PRIMARY KEY (host_id);
CONSTRAINT migrations_begun ON migrations CHECK (((begun_at IS NULL) OR (target_host_id IS NOT NULL)));
CONSTRAINT migrations_chosen ON migrations CHECK (((target_host_id IS NULL) = (target IS NULL)));
CONSTRAINT migrations_elsewhere ON migrations CHECK ((target_host_id <> source_host_id));
CONSTRAINT migrations_ended ON migrations CHECK (((ended_at IS NULL) = (outcome IS NULL)));
CONSTRAINT migrations_id ON migrations PRIMARY KEY (id);
CONSTRAINT migrations_mode ON migrations CHECK ((mode = ANY (ARRAY['live'::text, 'cold'::text])));
CONSTRAINT migrations_vm ON migrations FOREIGN KEY (vm_id) REFERENCES vms(id);
CONSTRAINT networks_cidr6_overlap ON networks EXCLUDE USING gist (project_id WITH =, cidr6 inet_ops WITH &&);
CONSTRAINT networks_cidr_overlap ON networks EXCLUDE USING gist (project_id WITH =, cidr inet_ops WITH &&);
CONSTRAINT networks_id ON networks PRIMARY KEY (id);
CONSTRAINT networks_name ON networks UNIQUE (project_id, name);
CONSTRAINT networks_project ON networks FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT networks_vni ON networks UNIQUE (vni);
CONSTRAINT placements_host ON placements FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT placements_id ON placements PRIMARY KEY (vm_id);
CONSTRAINT placements_named ON placements CHECK (((host_id IS NULL) = (host IS NULL)));
CONSTRAINT placements_vm ON placements FOREIGN KEY (vm_id) REFERENCES vms(id);
CONSTRAINT pool_room ON pools CHECK ((claimed_bytes >= 0));
CONSTRAINT pools_host ON pools FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT pools_id ON pools PRIMARY KEY (id);
CONSTRAINT pools_name ON pools UNIQUE (host_id, name);
CONSTRAINT ports_address ON ports UNIQUE (network_id, address);
CONSTRAINT ports_id ON ports PRIMARY KEY (id);
CONSTRAINT ports_mac ON ports UNIQUE (network_id, mac);
CONSTRAINT ports_network ON ports FOREIGN KEY (network_id) REFERENCES networks(id);
CONSTRAINT ports_owner ON ports CHECK (((vm_id IS NULL) <> (router_id IS NULL)));
CONSTRAINT ports_router ON ports FOREIGN KEY (router_id) REFERENCES routers(id);
CONSTRAINT ports_vm ON ports FOREIGN KEY (vm_id) REFERENCES vms(id);
CONSTRAINT ports_vm_nic ON ports CHECK (((vm_id IS NULL) OR ((nic_index IS NOT NULL) AND (mac IS NOT NULL))));
CONSTRAINT projects_id ON projects PRIMARY KEY (id);
CONSTRAINT projects_id_tenant ON projects UNIQUE (id, tenant_id);
CONSTRAINT projects_name ON projects UNIQUE (tenant_id, name);
CONSTRAINT projects_tenant ON projects FOREIGN KEY (tenant_id) REFERENCES tenants(id);
CONSTRAINT provider_status_id ON provider_status PRIMARY KEY (provider_id);
CONSTRAINT provider_status_provider ON provider_status FOREIGN KEY (provider_id) REFERENCES providers(id) ON DELETE CASCADE;
CONSTRAINT providers_id ON providers PRIMARY KEY (id);
CONSTRAINT providers_id_project ON providers UNIQUE (id, project_id);
CONSTRAINT providers_name ON providers UNIQUE (project_id, name);
CONSTRAINT providers_project ON providers FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT quota_cpus ON quotas CHECK ((used_cpus >= 0));
CONSTRAINT quota_memory ON quotas CHECK ((used_memory_bytes >= 0));
CONSTRAINT quota_storage ON quotas CHECK ((used_storage_bytes >= 0));
CONSTRAINT quota_vms ON quotas CHECK ((used_vms >= 0));
CONSTRAINT quotas_id ON quotas PRIMARY KEY (project_id);
CONSTRAINT quotas_project ON quotas FOREIGN KEY (project_id) REFERENCES projects(id);
CONSTRAINT reconcile_events_id ON reconcile_events PRIMARY KEY (id);
CONSTRAINT role_bindings_id ON role_bindings PRIMARY KEY (id);
CONSTRAINT role_bindings_once ON role_bindings UNIQUE NULLS NOT DISTINCT (principal_id, role, tenant_id, project_id);
CONSTRAINT role_bindings_project_of_tenant ON role_bindings FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT role_bindings_role ON role_bindings CHECK ((role = ANY (ARRAY['viewer'::text, 'operator'::text, 'admin'::text])));
CONSTRAINT role_bindings_scope ON role_bindings CHECK (((project_id IS NULL) OR (tenant_id IS NOT NULL)));
CONSTRAINT role_bindings_tenant ON role_bindings FOREIGN KEY (tenant_id) REFERENCES tenants(id);
CONSTRAINT router_interfaces_id ON router_interfaces PRIMARY KEY (network_id);
CONSTRAINT router_interfaces_network ON router_interfaces FOREIGN KEY (network_id) REFERENCES networks(id);
CONSTRAINT router_interfaces_router ON router_interfaces FOREIGN KEY (router_id) REFERENCES routers(id);
CONSTRAINT router_placements_host ON router_placements FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT router_placements_host_vrid ON router_placements UNIQUE (host_id, vrid);
CONSTRAINT router_placements_id ON router_placements PRIMARY KEY (router_id, slot);
CONSTRAINT router_placements_router ON router_placements FOREIGN KEY (router_id) REFERENCES routers(id);
CONSTRAINT router_placements_slot ON router_placements CHECK ((slot = ANY (ARRAY[0, 1])));
CONSTRAINT router_placements_twice ON router_placements UNIQUE (router_id, host_id);
CONSTRAINT router_placements_vrid ON router_placements CHECK (((vrid >= 1) AND (vrid <= 255)));
CONSTRAINT router_vms_id ON router_vms PRIMARY KEY (router_id, vm_id);
CONSTRAINT router_vms_router ON router_vms FOREIGN KEY (router_id) REFERENCES routers(id);
CONSTRAINT router_vms_vm ON router_vms FOREIGN KEY (vm_id) REFERENCES vms(id);
CONSTRAINT routers_id ON routers PRIMARY KEY (id);
CONSTRAINT routers_name ON routers UNIQUE (project_id, name);
CONSTRAINT routers_project ON routers FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT secrets_id ON secrets PRIMARY KEY (id);
CONSTRAINT secrets_name ON secrets UNIQUE (project_id, name);
CONSTRAINT secrets_project ON secrets FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT security_group_uses_group ON security_group_uses FOREIGN KEY (group_id, project_id) REFERENCES security_groups(id, project_id);
CONSTRAINT security_group_uses_network ON security_group_uses FOREIGN KEY (network_id) REFERENCES networks(id) ON DELETE CASCADE;
CONSTRAINT security_group_uses_one ON security_group_uses CHECK ((num_nonnulls(network_id, vm_id, rules_of) = 1));
CONSTRAINT security_group_uses_rules ON security_group_uses FOREIGN KEY (rules_of) REFERENCES security_groups(id) ON DELETE CASCADE;
CONSTRAINT security_group_uses_vm ON security_group_uses FOREIGN KEY (vm_id) REFERENCES vms(id) ON DELETE CASCADE;
CONSTRAINT security_groups_id ON security_groups PRIMARY KEY (id);
CONSTRAINT security_groups_id_project ON security_groups UNIQUE (id, project_id);
CONSTRAINT security_groups_name ON security_groups UNIQUE (project_id, name);
CONSTRAINT security_groups_project ON security_groups FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT service_tokens_hash ON service_tokens UNIQUE (hash);
CONSTRAINT service_tokens_id ON service_tokens PRIMARY KEY (id);
CONSTRAINT service_tokens_user ON service_tokens FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE;
CONSTRAINT task_logs_id ON task_logs PRIMARY KEY (task_id, seq);
CONSTRAINT task_logs_other_pkey ON task_logs_other PRIMARY KEY (task_id, seq);
CONSTRAINT task_work_id ON task_work PRIMARY KEY (task_id);
CONSTRAINT tasks_ended ON tasks CHECK (((state = ANY (ARRAY['pending'::text, 'executing'::text])) = (finished_at IS NULL)));
CONSTRAINT tasks_id ON tasks PRIMARY KEY (id);
CONSTRAINT tasks_progress ON tasks CHECK (((progress >= 0) AND (progress <= 100)));
CONSTRAINT tasks_state ON tasks CHECK ((state = ANY (ARRAY['pending'::text, 'executing'::text, 'completed'::text, 'failed'::text, 'timed_out'::text, 'cancelled'::text])));
CONSTRAINT tasks_ended ON tasks_finished CHECK (((state = ANY (ARRAY['pending'::text, 'executing'::text])) = (finished_at IS NULL)));
CONSTRAINT tasks_finished_id ON tasks_finished PRIMARY KEY (id);
CONSTRAINT tasks_progress ON tasks_finished CHECK (((progress >= 0) AND (progress <= 100)));
CONSTRAINT tasks_state ON tasks_finished CHECK ((state = ANY (ARRAY['pending'::text, 'executing'::text, 'completed'::text, 'failed'::text, 'timed_out'::text, 'cancelled'::text])));
CONSTRAINT tasks_ended ON tasks_finished_other CHECK (((state = ANY (ARRAY['pending'::text, 'executing'::text])) = (finished_at IS NULL)));
CONSTRAINT tasks_finished_other_pkey ON tasks_finished_other PRIMARY KEY (id);
CONSTRAINT tasks_progress ON tasks_finished_other CHECK (((progress >= 0) AND (progress <= 100)));
CONSTRAINT tasks_state ON tasks_finished_other CHECK ((state = ANY (ARRAY['pending'::text, 'executing'::text, 'completed'::text, 'failed'::text, 'timed_out'::text, 'cancelled'::text])));
CONSTRAINT tenants_id ON tenants PRIMARY KEY (id);
CONSTRAINT tenants_name ON tenants UNIQUE (name);
CONSTRAINT transfers_direction ON transfers CHECK ((direction = ANY (ARRAY['upload'::text, 'download'::text])));
CONSTRAINT transfers_id ON transfers PRIMARY KEY (id);
CONSTRAINT transfers_image ON transfers FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE;
CONSTRAINT users_id ON users PRIMARY KEY (id);
CONSTRAINT users_name ON users UNIQUE (name);
CONSTRAINT vm_observed_id ON vm_observed PRIMARY KEY (vm_id);
CONSTRAINT vm_observed_vm ON vm_observed FOREIGN KEY (vm_id) REFERENCES vms(id);
CONSTRAINT vms_id ON vms PRIMARY KEY (id);
CONSTRAINT vms_name ON vms UNIQUE (project_id, name);
CONSTRAINT vms_project ON vms FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT volume_observed_id ON volume_observed PRIMARY KEY (volume_id);
CONSTRAINT volume_observed_volume ON volume_observed FOREIGN KEY (volume_id) REFERENCES volumes(id);
CONSTRAINT volumes_bound ON volumes CHECK (((host_id IS NULL) = (pool IS NULL)));
CONSTRAINT volumes_host ON volumes FOREIGN KEY (host_id) REFERENCES hosts(id);
CONSTRAINT volumes_id ON volumes PRIMARY KEY (id);
CONSTRAINT volumes_image ON volumes FOREIGN KEY (image_id) REFERENCES images(id);
CONSTRAINT volumes_name ON volumes UNIQUE (project_id, name);
CONSTRAINT volumes_project ON volumes FOREIGN KEY (project_id, tenant_id) REFERENCES projects(id, tenant_id);
CONSTRAINT volumes_vm ON volumes FOREIGN KEY (vm_id) REFERENCES vms(id);

-- indexes

CREATE INDEX audit_events_project ON public.audit_events USING btree (project_id, id);
CREATE INDEX audit_events_subject ON public.audit_events USING btree (subject_id, id);
CREATE INDEX change_log_xid ON public.change_log USING btree (xid);
CREATE INDEX deployments_of_provider ON public.deployments USING btree (provider_id);
CREATE INDEX deployments_target ON public.deployments USING btree (project_id, target_kind, target_name, target_tag);
CREATE INDEX discovery_runs_of ON public.discovery_runs USING btree (provider_id, id);
CREATE INDEX drains_host_id ON public.drains USING btree (host_id, id);
CREATE UNIQUE INDEX drains_live ON public.drains USING btree (host_id) WHERE (ended_at IS NULL);
CREATE INDEX drains_task_id ON public.drains USING btree (task_id) WHERE (ended_at IS NULL);
CREATE INDEX host_certificates_host_id ON public.host_certificates USING btree (host_id);
CREATE INDEX host_deaths_host_id ON public.host_deaths USING btree (host_id);
CREATE UNIQUE INDEX host_deaths_standing ON public.host_deaths USING btree (host_id) WHERE (ended_at IS NULL);
CREATE INDEX idempotency_keys_created ON public.idempotency_keys USING btree (created_at);
CREATE INDEX images_shared ON public.images USING btree (tenant_id, name) WHERE shared;
CREATE INDEX manifest_facts_object ON public.manifest_facts USING btree (id);
CREATE INDEX manifest_items_object ON public.manifest_items USING btree (id);
CREATE INDEX migrations_drain_id ON public.migrations USING btree (drain_id) WHERE (ended_at IS NULL);
CREATE INDEX migrations_hosts ON public.migrations USING btree (target_host_id) WHERE (ended_at IS NULL);
CREATE UNIQUE INDEX migrations_live ON public.migrations USING btree (vm_id) WHERE (ended_at IS NULL);
CREATE INDEX migrations_project_id ON public.migrations USING btree (project_id, id);
CREATE INDEX migrations_vm_id ON public.migrations USING btree (vm_id);
CREATE UNIQUE INDEX networks_wire ON public.networks USING btree (uplink, vlan_id) NULLS NOT DISTINCT WHERE (uplink IS NOT NULL);
CREATE INDEX placements_host_id ON public.placements USING btree (host_id);
CREATE INDEX ports_router_id ON public.ports USING btree (router_id);
CREATE INDEX ports_vm_id ON public.ports USING btree (vm_id);
CREATE INDEX reconcile_events_age ON public.reconcile_events USING btree (completed_at);
CREATE INDEX reconcile_events_of ON public.reconcile_events USING btree (deployment_id, id);
CREATE INDEX router_interfaces_router_id ON public.router_interfaces USING btree (router_id);
CREATE INDEX router_vms_vm_id ON public.router_vms USING btree (vm_id);
CREATE INDEX security_group_uses_group_id ON public.security_group_uses USING btree (group_id);
CREATE INDEX security_group_uses_network_id ON public.security_group_uses USING btree (network_id) WHERE (network_id IS NOT NULL);
CREATE INDEX security_group_uses_rules_of ON public.security_group_uses USING btree (rules_of) WHERE (rules_of IS NOT NULL);
CREATE INDEX security_group_uses_vm_id ON public.security_group_uses USING btree (vm_id) WHERE (vm_id IS NOT NULL);
CREATE UNIQUE INDEX service_tokens_name ON public.service_tokens USING btree (name) WHERE ((user_id IS NULL) AND (revoked_at IS NULL));
CREATE INDEX service_tokens_user_id ON public.service_tokens USING btree (user_id) WHERE (user_id IS NOT NULL);
CREATE INDEX task_work_available ON public.task_work USING btree (kind, available_at);
CREATE INDEX tasks_deadline ON public.tasks USING btree (deadline);
CREATE INDEX tasks_project ON public.tasks USING btree (project_id, id);
CREATE INDEX tasks_retry_of ON public.tasks USING btree (retry_of) WHERE (retry_of IS NOT NULL);
CREATE INDEX tasks_subject ON public.tasks USING btree (subject_id, id);
CREATE INDEX tasks_finished_project ON ONLY public.tasks_finished USING btree (project_id, id);
CREATE INDEX tasks_finished_retry_of ON ONLY public.tasks_finished USING btree (retry_of) WHERE (retry_of IS NOT NULL);
CREATE INDEX tasks_finished_subject ON ONLY public.tasks_finished USING btree (subject_id, id);
CREATE INDEX tasks_finished_other_project_id_id_idx ON public.tasks_finished_other USING btree (project_id, id);
CREATE INDEX tasks_finished_other_retry_of_idx ON public.tasks_finished_other USING btree (retry_of) WHERE (retry_of IS NOT NULL);
CREATE INDEX tasks_finished_other_subject_id_id_idx ON public.tasks_finished_other USING btree (subject_id, id);
CREATE INDEX transfers_image_id ON public.transfers USING btree (image_id);
CREATE INDEX vms_placement_rules ON public.vms USING btree (project_id) WHERE (placement_rules IS NOT NULL);
CREATE INDEX vms_project_id ON public.vms USING btree (project_id, id);
CREATE INDEX volumes_host_id ON public.volumes USING btree (host_id);
CREATE INDEX volumes_image_id ON public.volumes USING btree (image_id);
CREATE INDEX volumes_vm_id ON public.volumes USING btree (vm_id);

-- sequences

SEQUENCE change_log_seq_seq AS bigint MINVALUE 1 MAXVALUE 9223372036854775807 CYCLE f;
SEQUENCE network_vnis AS integer MINVALUE 4096 MAXVALUE 16777215 CYCLE f;

-- functions

CREATE OR REPLACE FUNCTION public.archive_ended_tasks()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
DECLARE
    ended uuid[];
BEGIN
    SELECT array_agg(r.id) INTO ended FROM changed_rows r WHERE r.finished_at IS NOT NULL;
    IF ended IS NOT NULL THEN
        WITH gone AS (DELETE FROM public.tasks t WHERE t.id = ANY (ended) RETURNING t.*)
        INSERT INTO public.tasks_finished (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name,
            generation, state, progress, stage, error, depends_on, deadline, attempt, actor, created_at, started_at,
            finished_at, held, retry_of)
        SELECT id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation, state, progress,
            stage, error, depends_on, deadline, attempt, actor, created_at, started_at, finished_at, held, retry_of
        FROM gone;
    END IF;
    RETURN NULL;
END $function$;
CREATE OR REPLACE FUNCTION public.broken_placement_rules(placed uuid[])
 RETURNS TABLE(vm_id uuid, apart boolean, beside text)
 LANGUAGE plpgsql
AS $function$
DECLARE
    projects uuid[];
    attracted uuid[];
    project uuid;
BEGIN
    IF NOT EXISTS (SELECT FROM vms r WHERE r.placement_rules IS NOT NULL) THEN
        RETURN;
    END IF;
    SELECT array_agg(DISTINCT v.project_id),
        array_agg(DISTINCT v.project_id) FILTER (WHERE jsonb_array_length(v.placement_rules -> 'affinity') > 0)
    INTO projects, attracted FROM vms v WHERE v.id = ANY (placed);
    -- Two VMs that begin one group on two hosts have no claim in common: the project's VMs with affinity go one by one.
    FOR project IN SELECT a.id FROM unnest(attracted) a(id) ORDER BY a.id LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended('affinity/' || project, 0));
    END LOOP;
    IF NOT EXISTS (SELECT FROM vms r WHERE r.placement_rules IS NOT NULL AND r.project_id = ANY (projects)) THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT v.id, true, o.name
        FROM placements p JOIN vms v ON v.id = p.vm_id
            JOIN placements q ON q.host_id = p.host_id AND q.project_id = p.project_id AND q.vm_id <> p.vm_id
            JOIN vms o ON o.id = q.vm_id
        WHERE p.vm_id = ANY (placed) AND p.host_id IS NOT NULL
            AND (EXISTS (SELECT FROM jsonb_array_elements(v.placement_rules -> 'anti_affinity') r(labels)
                    WHERE o.labels @> r.labels)
                OR EXISTS (SELECT FROM jsonb_array_elements(o.placement_rules -> 'anti_affinity') r(labels)
                    WHERE v.labels @> r.labels));
    IF cardinality(attracted) > 0 THEN
        -- The first of a group goes anywhere: nobody else that the rule means is placed, and it means the VM itself.
        RETURN QUERY SELECT v.id, false, NULL::text
            FROM placements p JOIN vms v ON v.id = p.vm_id
                CROSS JOIN jsonb_array_elements(v.placement_rules -> 'affinity') r(labels)
            WHERE p.vm_id = ANY (placed) AND p.host_id IS NOT NULL
                AND NOT EXISTS (SELECT FROM placements q JOIN vms o ON o.id = q.vm_id
                    WHERE q.host_id = p.host_id AND q.project_id = p.project_id AND q.vm_id <> p.vm_id
                        AND o.labels @> r.labels)
                AND NOT (v.labels @> r.labels AND NOT EXISTS (SELECT FROM vms o JOIN placements q ON q.vm_id = o.id
                    WHERE o.project_id = v.project_id AND o.id <> v.id AND o.labels @> r.labels
                        AND q.host_id IS NOT NULL));
    END IF;
END $function$;
CREATE OR REPLACE FUNCTION public.claim_address(network uuid, wanted inet, spoken_for inet[])
 RETURNS inet
 LANGUAGE plpgsql
AS $function$
DECLARE
    c address_cursors;
    n bigint;
    candidate inet;
BEGIN
    SELECT * INTO c FROM address_cursors WHERE network_id = network FOR UPDATE;
    IF NOT FOUND OR c.closed THEN
        RAISE EXCEPTION 'network % takes no ports', network
            USING ERRCODE = 'BS001', CONSTRAINT = 'network_closed', DETAIL = network::text;
    END IF;
    IF wanted IS NOT NULL THEN
        UPDATE address_cursors SET used = used + 1 WHERE network_id = network;
        RETURN wanted;
    END IF;
    n := c.next_address;
    IF c.used <= c.last_address - c.first_address THEN
        FOR i IN 0 .. c.last_address - c.first_address LOOP
            IF n > c.last_address THEN
                n := c.first_address;
            END IF;
            candidate := '0.0.0.0'::inet + n;
            IF n <> c.gateway AND candidate <> ALL (spoken_for)
                AND NOT EXISTS (SELECT FROM ports p WHERE p.network_id = network AND p.address = candidate) THEN
                UPDATE address_cursors SET used = used + 1, next_address = n + 1 WHERE network_id = network;
                RETURN candidate;
            END IF;
            n := n + 1;
        END LOOP;
    END IF;
    RAISE EXCEPTION 'no address is free in network %', network
        USING ERRCODE = 'BS002', CONSTRAINT = 'subnet_exhausted', DETAIL = network::text;
END $function$;
CREATE OR REPLACE FUNCTION public.current_tenant()
 RETURNS uuid
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$ SELECT nullif(current_setting('app.tenant', true), '')::uuid $function$;
CREATE OR REPLACE FUNCTION public.feed_agent_conflicts_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'agent_conflicts', r.host_id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_agent_conflicts_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'agent_conflicts', r.host_id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_agent_conflicts_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'agent_conflicts', r.host_id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_artifacts_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'artifacts', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_artifacts_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'artifacts', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_artifacts_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'artifacts', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_conditions_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'conditions', r.subject_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_conditions_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'conditions', r.subject_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_conditions_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'conditions', r.subject_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployment_status_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployment_status', r.deployment_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployment_status_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployment_status', r.deployment_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployment_status_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployment_status', r.deployment_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployments_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployments', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployments_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployments', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_deployments_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'deployments', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_basalt_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_basalt', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_basalt_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_basalt', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_basalt_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_basalt', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_kubernetes_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_kubernetes', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_kubernetes_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_kubernetes', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_kubernetes_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_kubernetes', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_local_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_local', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_local_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_local', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_discovered_local_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'discovered_local', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_drains_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'drains', r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_drains_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'drains', r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_drains_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'drains', r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_certificates_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_certificates', r.serial, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_certificates_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_certificates', r.serial, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_certificates_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_certificates', r.serial, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_claims_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_claims', r.host_id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_claims_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_claims', r.host_id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_claims_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_claims', r.host_id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_deaths_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_deaths', r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_deaths_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_deaths', r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_deaths_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_deaths', r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_facts_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_facts', r.host_id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_facts_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_facts', r.host_id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_host_facts_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'host_facts', r.host_id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_hosts_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'hosts', r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_hosts_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'hosts', r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_hosts_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'hosts', r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_image_observed_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'image_observed', r.image_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_image_observed_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'image_observed', r.image_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_image_observed_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'image_observed', r.image_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_images_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'images', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_images_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'images', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_images_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'images', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_facts_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_facts', r.host_id || '/' || r.kind || '/' || r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_facts_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_facts', r.host_id || '/' || r.kind || '/' || r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_facts_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_facts', r.host_id || '/' || r.kind || '/' || r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_items_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_items', r.host_id || '/' || r.kind || '/' || r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_items_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_items', r.host_id || '/' || r.kind || '/' || r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifest_items_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifest_items', r.host_id || '/' || r.kind || '/' || r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifests_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifests', r.host_id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifests_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifests', r.host_id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_manifests_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'manifests', r.host_id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_migrations_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'migrations', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_migrations_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'migrations', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_migrations_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'migrations', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_networks_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'networks', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_networks_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'networks', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_networks_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'networks', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_placements_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'placements', r.vm_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_placements_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'placements', r.vm_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_placements_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'placements', r.vm_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_pools_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'pools', r.id, 'delete', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_pools_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'pools', r.id, 'insert', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_pools_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'pools', r.id, 'update', NULL::uuid, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_projects_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'projects', r.id, 'delete', r.tenant_id, r.id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_projects_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'projects', r.id, 'insert', r.tenant_id, r.id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_projects_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'projects', r.id, 'update', r.tenant_id, r.id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_provider_status_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'provider_status', r.provider_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_provider_status_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'provider_status', r.provider_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_provider_status_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'provider_status', r.provider_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_providers_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'providers', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_providers_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'providers', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_providers_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'providers', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_reload()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
BEGIN
    INSERT INTO public.change_log (xid, source, key, op)
    VALUES (pg_catalog.pg_current_xact_id(), TG_TABLE_NAME, '', 'reload');
    RETURN NULL;
END $function$;
CREATE OR REPLACE FUNCTION public.feed_router_placements_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'router_placements', r.router_id || '/' || r.slot, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_router_placements_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'router_placements', r.router_id || '/' || r.slot, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_router_placements_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'router_placements', r.router_id || '/' || r.slot, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_routers_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'routers', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_routers_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'routers', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_routers_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'routers', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_secrets_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'secrets', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_secrets_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'secrets', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_secrets_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'secrets', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_security_groups_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'security_groups', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_security_groups_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'security_groups', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_security_groups_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'security_groups', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tasks_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tasks', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tasks_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tasks', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tasks_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tasks', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tenants_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tenants', r.id, 'delete', r.id, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tenants_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tenants', r.id, 'insert', r.id, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_tenants_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'tenants', r.id, 'update', r.id, NULL::uuid FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vm_observed_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vm_observed', r.vm_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vm_observed_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vm_observed', r.vm_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vm_observed_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vm_observed', r.vm_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vms_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vms', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vms_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vms', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_vms_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'vms', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volume_observed_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volume_observed', r.volume_id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volume_observed_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volume_observed', r.volume_id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volume_observed_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volume_observed', r.volume_id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volumes_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volumes', r.id, 'delete', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volumes_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volumes', r.id, 'insert', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_volumes_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), 'volumes', r.id, 'update', r.tenant_id, r.project_id FROM changed_rows r;
                RETURN NULL;
            END $function$;
CREATE OR REPLACE FUNCTION public.feed_watch(source regclass, key text, tenant text, project text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
DECLARE
    event text;
    rows_of text;
BEGIN
    FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
        rows_of := CASE event WHEN 'delete' THEN 'OLD' ELSE 'NEW' END;
        EXECUTE format($f$
            CREATE FUNCTION %1$I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
            BEGIN
                INSERT INTO public.change_log (xid, source, key, op, tenant_id, project_id)
                SELECT pg_catalog.pg_current_xact_id(), %2$L, %3$s, %4$L, %5$s, %6$s FROM changed_rows r;
                RETURN NULL;
            END $body$
            $f$, format('feed_%s_%s', source, event), source, key, event, tenant, project);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %I() FROM PUBLIC', format('feed_%s_%s', source, event));
        EXECUTE format('CREATE TRIGGER feed_%s AFTER %s ON %s REFERENCING %s TABLE AS changed_rows
            FOR EACH STATEMENT EXECUTE FUNCTION %I()', event, event, source, rows_of, format('feed_%s_%s', source, event));
    END LOOP;
    EXECUTE format('CREATE TRIGGER feed_truncate AFTER TRUNCATE ON %s
        FOR EACH STATEMENT EXECUTE FUNCTION feed_reload()', source);
END $function$;
CREATE OR REPLACE FUNCTION public.first_id_of(of date)
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE
AS $function$ SELECT rpad(lpad(to_hex((extract(epoch FROM of::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid $function$;
CREATE OR REPLACE FUNCTION public.guard_system(guarded regclass)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY system_rows ON %s TO basalt_system USING (true) WITH CHECK (true)', guarded);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO basalt_system', guarded);
END $function$;
CREATE OR REPLACE FUNCTION public.guard_tenant(guarded regclass, rights text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
    EXECUTE format('CREATE POLICY tenant_rows ON %s TO basalt_tenant
        USING (tenant_id = (SELECT current_tenant())) WITH CHECK (tenant_id = (SELECT current_tenant()))', guarded);
    EXECUTE format('CREATE POLICY system_rows ON %s TO basalt_system USING (true) WITH CHECK (true)', guarded);
    EXECUTE format('GRANT %s ON %s TO basalt_tenant', rights, guarded);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO basalt_system', guarded);
END $function$;
CREATE OR REPLACE FUNCTION public.hold_image(image uuid)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM FROM images WHERE id = image AND deletion_requested_at IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'image % is going', image
            USING ERRCODE = 'BS003', CONSTRAINT = 'image_going', DETAIL = image::text;
    END IF;
    RETURN image;
END $function$;
CREATE OR REPLACE FUNCTION public.keep_task_partitions(today date, days_ahead integer, kept_from date)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET lock_timeout TO '200ms'
AS $function$
DECLARE
    parent text;
    key text;
    called text;
    day date;
    changed integer := 0;
BEGIN
    FOR parent, key IN VALUES ('tasks_finished', 'id'), ('task_logs', 'task_id') LOOP
        FOR day IN SELECT today + n FROM generate_series(0, days_ahead) n LOOP
            called := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass('public.' || called) IS NOT NULL;
            PERFORM public.task_partition(parent, key, called,
                format('FOR VALUES FROM (%L) TO (%L)', public.first_id_of(day), public.first_id_of(day + 1)),
                public.first_id_of(day), public.first_id_of(day + 1));
            changed := changed + 1;
        END LOOP;
        FOR called IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = ('public.' || parent)::regclass AND c.relname ~ '_[0-9]{8}$'
                AND to_date(right(c.relname, 8), 'YYYYMMDD') < kept_from
        LOOP
            EXECUTE format('DROP TABLE public.%I', called);
            changed := changed + 1;
        END LOOP;
        EXECUTE format('DELETE FROM public.%I WHERE %I < $1', parent || '_other', key)
            USING public.first_id_of(kept_from);
    END LOOP;
    RETURN changed;
END $function$;
CREATE OR REPLACE FUNCTION public.release_router(router uuid, kept uuid[])
 RETURNS TABLE(network_id uuid)
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
BEGIN
    DELETE FROM public.router_interfaces x WHERE x.router_id = router;
    DELETE FROM public.router_vms x WHERE x.router_id = router;
    RETURN QUERY DELETE FROM public.ports x WHERE x.router_id = router AND x.id <> ALL (kept) RETURNING x.network_id;
END $function$;
CREATE OR REPLACE FUNCTION public.schema_version()
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
AS $function$ SELECT coalesce(max(version), 0) FROM public._sqlx_migrations WHERE success $function$;
CREATE OR REPLACE FUNCTION public.task_partition(parent text, key text, called text, bounds text, low uuid, high uuid)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL)', called, parent);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', called);
    EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', called);
    EXECUTE format('CREATE POLICY owner_rows ON public.%I TO basalt_owner USING (true) WITH CHECK (true)', called);
    IF low IS NOT NULL THEN
        -- What stands among the others would keep the partition from being attached.
        EXECUTE format('WITH gone AS (DELETE FROM public.%I WHERE %I >= $1 AND %I < $2 RETURNING *)
            INSERT INTO public.%I SELECT * FROM gone', parent || '_other', key, key, called) USING low, high;
    END IF;
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I %s', parent, called, bounds);
END $function$;
CREATE OR REPLACE FUNCTION public.vm_page_stamps(tenant uuid, project uuid, behind uuid, how_many bigint)
 RETURNS TABLE(ids uuid[], generations bigint[])
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
BEGIN
    PERFORM pg_catalog.set_config('app.tenant', tenant::text, true);
    RETURN QUERY SELECT pg_catalog.array_agg(p.id), pg_catalog.array_agg(p.generation) FROM (
        SELECT x.id, x.generation FROM public.vms x WHERE x.project_id = project AND x.id > behind
        ORDER BY x.id LIMIT how_many) p;
END $function$;
CREATE OR REPLACE FUNCTION public.vm_stamps(tenant uuid, project uuid, ids_wanted uuid[], names_wanted text[])
 RETURNS TABLE(id uuid, name text, generation bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
BEGIN
    PERFORM pg_catalog.set_config('app.tenant', tenant::text, true);
    IF pg_catalog.cardinality(ids_wanted) > 0 THEN
        RETURN QUERY SELECT x.id, x.name, x.generation FROM public.vms x
            WHERE x.id = ANY (ids_wanted) AND x.project_id = project;
    END IF;
    IF pg_catalog.cardinality(names_wanted) > 0 THEN
        RETURN QUERY SELECT x.id, x.name, x.generation FROM public.vms x
            WHERE x.project_id = project AND x.name = ANY (names_wanted);
    END IF;
END $function$;

-- views

VIEW deployments_listed WITH (security_invoker=true) AS
 SELECT d.id,
    d.tenant_id,
    d.project_id,
    d.name,
    d.labels,
    d.generation,
    d.created_at,
    d.updated_at,
    d.deletion_requested_at,
    'managed'::text AS origin,
    d.spec,
    d.provider_id,
    d.force_token,
    d.orphan,
    d.adopts,
    NULL::text AS kind,
    NULL::text AS namespace,
    NULL::uuid AS owner,
    NULL::integer AS misses
   FROM deployments d
UNION ALL
 SELECT x.id,
    x.tenant_id,
    x.project_id,
    x.name,
    '{}'::jsonb AS labels,
    1 AS generation,
    x.first_seen_at AS created_at,
    x.changed_at AS updated_at,
    NULL::timestamp with time zone AS deletion_requested_at,
        CASE
            WHEN (x.owner IS NULL) THEN 'discovered'::text
            ELSE 'orphaned'::text
        END AS origin,
    NULL::jsonb AS spec,
    x.provider_id,
    NULL::uuid AS force_token,
    false AS orphan,
    NULL::jsonb AS adopts,
    x.kind,
    x.namespace,
    x.owner,
    x.misses
   FROM ( SELECT discovered_local.id,
            discovered_local.tenant_id,
            discovered_local.project_id,
            discovered_local.provider_id,
            discovered_local.kind,
            discovered_local.namespace,
            discovered_local.name,
            discovered_local.owner,
            discovered_local.workload,
            discovered_local.raw,
            discovered_local.first_seen_at,
            discovered_local.changed_at,
            discovered_local.misses
           FROM discovered_local
        UNION ALL
         SELECT discovered_kubernetes.id,
            discovered_kubernetes.tenant_id,
            discovered_kubernetes.project_id,
            discovered_kubernetes.provider_id,
            discovered_kubernetes.kind,
            discovered_kubernetes.namespace,
            discovered_kubernetes.name,
            discovered_kubernetes.owner,
            discovered_kubernetes.workload,
            discovered_kubernetes.raw,
            discovered_kubernetes.first_seen_at,
            discovered_kubernetes.changed_at,
            discovered_kubernetes.misses
           FROM discovered_kubernetes
        UNION ALL
         SELECT discovered_basalt.id,
            discovered_basalt.tenant_id,
            discovered_basalt.project_id,
            discovered_basalt.provider_id,
            discovered_basalt.kind,
            discovered_basalt.namespace,
            discovered_basalt.name,
            discovered_basalt.owner,
            discovered_basalt.workload,
            discovered_basalt.raw,
            discovered_basalt.first_seen_at,
            discovered_basalt.changed_at,
            discovered_basalt.misses
           FROM discovered_basalt) x
  WHERE (x.workload AND (NOT (EXISTS ( SELECT
           FROM deployments d
          WHERE (d.id = x.owner)))));;

-- triggers

CREATE TRIGGER feed_delete AFTER DELETE ON public.agent_conflicts REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_agent_conflicts_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.agent_conflicts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_agent_conflicts_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.agent_conflicts FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.agent_conflicts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_agent_conflicts_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.artifacts REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_artifacts_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.artifacts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_artifacts_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.artifacts FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.artifacts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_artifacts_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.conditions REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_conditions_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.conditions REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_conditions_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.conditions FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.conditions REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_conditions_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.deployment_status REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployment_status_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.deployment_status REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployment_status_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.deployment_status FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.deployment_status REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployment_status_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.deployments REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployments_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.deployments REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployments_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.deployments FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.deployments REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_deployments_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.discovered_basalt REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_basalt_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.discovered_basalt REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_basalt_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.discovered_basalt FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.discovered_basalt REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_basalt_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.discovered_kubernetes REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_kubernetes_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.discovered_kubernetes REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_kubernetes_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.discovered_kubernetes FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.discovered_kubernetes REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_kubernetes_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.discovered_local REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_local_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.discovered_local REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_local_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.discovered_local FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.discovered_local REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_discovered_local_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.drains REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_drains_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.drains REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_drains_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.drains FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.drains REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_drains_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.host_certificates REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_certificates_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.host_certificates REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_certificates_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.host_certificates FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.host_certificates REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_certificates_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.host_claims REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_claims_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.host_claims REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_claims_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.host_claims FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.host_claims REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_claims_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.host_deaths REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_deaths_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.host_deaths REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_deaths_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.host_deaths FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.host_deaths REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_deaths_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.host_facts REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_facts_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.host_facts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_facts_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.host_facts FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.host_facts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_host_facts_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.hosts REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_hosts_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.hosts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_hosts_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.hosts FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.hosts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_hosts_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.image_observed REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_image_observed_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.image_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_image_observed_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.image_observed FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.image_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_image_observed_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.images REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_images_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.images REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_images_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.images FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.images REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_images_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.manifest_facts REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_facts_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.manifest_facts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_facts_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.manifest_facts FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.manifest_facts REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_facts_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.manifest_items REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_items_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.manifest_items REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_items_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.manifest_items FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.manifest_items REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifest_items_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.manifests REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifests_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.manifests REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifests_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.manifests FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.manifests REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_manifests_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.migrations REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_migrations_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.migrations REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_migrations_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.migrations FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.migrations REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_migrations_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.networks REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_networks_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.networks REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_networks_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.networks FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.networks REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_networks_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.placements REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_placements_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.placements REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_placements_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.placements FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.placements REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_placements_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.pools REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_pools_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.pools REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_pools_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.pools FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.pools REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_pools_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.projects REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_projects_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.projects REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_projects_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.projects FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.projects REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_projects_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.provider_status REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_provider_status_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.provider_status REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_provider_status_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.provider_status FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.provider_status REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_provider_status_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.providers REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_providers_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.providers REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_providers_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.providers FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.providers REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_providers_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.router_placements REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_router_placements_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.router_placements REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_router_placements_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.router_placements FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.router_placements REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_router_placements_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.routers REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_routers_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.routers REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_routers_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.routers FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.routers REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_routers_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.secrets REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_secrets_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.secrets REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_secrets_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.secrets FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.secrets REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_secrets_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.security_groups REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_security_groups_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.security_groups REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_security_groups_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.security_groups FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.security_groups REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_security_groups_update();
CREATE TRIGGER ended AFTER UPDATE ON public.tasks REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION archive_ended_tasks();
CREATE TRIGGER feed_delete AFTER DELETE ON public.tasks REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tasks_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.tasks REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tasks_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.tasks FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.tasks REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tasks_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.tenants REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tenants_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.tenants REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tenants_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.tenants FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.tenants REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_tenants_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.vm_observed REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vm_observed_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.vm_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vm_observed_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.vm_observed FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.vm_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vm_observed_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.vms REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vms_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.vms REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vms_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.vms FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.vms REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_vms_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.volume_observed REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volume_observed_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.volume_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volume_observed_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.volume_observed FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.volume_observed REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volume_observed_update();
CREATE TRIGGER feed_delete AFTER DELETE ON public.volumes REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volumes_delete();
CREATE TRIGGER feed_insert AFTER INSERT ON public.volumes REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volumes_insert();
CREATE TRIGGER feed_truncate AFTER TRUNCATE ON public.volumes FOR EACH STATEMENT EXECUTE FUNCTION feed_reload();
CREATE TRIGGER feed_update AFTER UPDATE ON public.volumes REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION feed_volumes_update();

-- policies

POLICY system_rows ON address_cursors FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON address_cursors FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON agent_conflicts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON artifacts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON artifacts FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON audit_events FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON audit_events FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON change_log FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY triggers_write ON change_log FOR INSERT TO {basalt_owner} USING () WITH CHECK (true);
POLICY system_rows ON conditions FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON conditions FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON deployment_attempts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON deployment_attempts FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON deployment_status FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON deployment_status FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON deployments FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON deployments FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON discovered_basalt FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON discovered_basalt FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON discovered_kubernetes FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON discovered_kubernetes FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON discovered_local FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON discovered_local FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON discovery_runs FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON discovery_runs FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON drains FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON feed_cursors FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON feed_retention FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON first_boot_tokens FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_certificates FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_claims FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_deaths FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_facts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_heartbeats FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_leases FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_links FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON host_logs FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON hosts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON idempotency_keys FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON idempotency_keys FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON image_events FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON image_observed FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON image_observed FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON images FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON images FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON join_tokens FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON leases FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON manifest_facts FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON manifest_items FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON manifests FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON migrations FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON migrations FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON networks FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON networks FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON placements FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON placements FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON pools FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY released_rows ON ports FOR ALL TO {basalt_owner} USING (((router_id IS NOT NULL) AND (tenant_id = ( SELECT current_tenant() AS current_tenant)))) WITH CHECK (false);
POLICY system_rows ON ports FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON ports FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON projects FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON projects FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON provider_status FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON provider_status FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON providers FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON providers FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON quotas FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON quotas FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON reconcile_events FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON reconcile_events FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON role_bindings FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY released_rows ON router_interfaces FOR ALL TO {basalt_owner} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK (false);
POLICY system_rows ON router_interfaces FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON router_interfaces FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON router_placements FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON router_placements FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY released_rows ON router_vms FOR ALL TO {basalt_owner} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK (false);
POLICY system_rows ON router_vms FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON router_vms FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON routers FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON routers FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON secrets FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON secrets FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON security_group_uses FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON security_group_uses FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON security_groups FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON security_groups FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON service_tokens FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON task_logs FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON task_logs FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY owner_rows ON task_logs_other FOR ALL TO {basalt_owner} USING (true) WITH CHECK (true);
POLICY system_rows ON task_work FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON task_work FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY ended_rows ON tasks FOR ALL TO {basalt_owner} USING ((finished_at IS NOT NULL)) WITH CHECK (false);
POLICY system_rows ON tasks FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON tasks FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY ended_rows ON tasks_finished FOR ALL TO {basalt_owner} USING (true) WITH CHECK (true);
POLICY system_rows ON tasks_finished FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON tasks_finished FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY owner_rows ON tasks_finished_other FOR ALL TO {basalt_owner} USING (true) WITH CHECK (true);
POLICY system_rows ON tenants FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON tenants FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON transfers FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON transfers FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON users FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY system_rows ON vm_observed FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON vm_observed FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY stamped_rows ON vms FOR SELECT TO {basalt_owner} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ();
POLICY system_rows ON vms FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON vms FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON volume_observed FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON volume_observed FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));
POLICY system_rows ON volumes FOR ALL TO {basalt_system} USING (true) WITH CHECK (true);
POLICY tenant_rows ON volumes FOR ALL TO {basalt_tenant} USING ((tenant_id = ( SELECT current_tenant() AS current_tenant))) WITH CHECK ((tenant_id = ( SELECT current_tenant() AS current_tenant)));

-- rights

GRANT DELETE, INSERT, SELECT, UPDATE ON address_cursors TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON address_cursors TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON agent_conflicts TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON artifacts TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON artifacts TO basalt_tenant;
GRANT INSERT, SELECT ON audit_events TO basalt_system;
GRANT INSERT, SELECT ON audit_events TO basalt_tenant;
GRANT DELETE, SELECT ON change_log TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON conditions TO basalt_system;
GRANT SELECT ON conditions TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON deployment_attempts TO basalt_system;
GRANT SELECT ON deployment_attempts TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON deployment_status TO basalt_system;
GRANT SELECT ON deployment_status TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON deployments TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON deployments TO basalt_tenant;
GRANT SELECT ON deployments_listed TO basalt_system;
GRANT SELECT ON deployments_listed TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON discovered_basalt TO basalt_system;
GRANT SELECT ON discovered_basalt TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON discovered_kubernetes TO basalt_system;
GRANT SELECT ON discovered_kubernetes TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON discovered_local TO basalt_system;
GRANT SELECT ON discovered_local TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON discovery_runs TO basalt_system;
GRANT SELECT ON discovery_runs TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON drains TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON feed_cursors TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON feed_retention TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON first_boot_tokens TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_certificates TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_claims TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_deaths TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_facts TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_heartbeats TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_leases TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_links TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON host_logs TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON hosts TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_keys TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON idempotency_keys TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON image_events TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON image_observed TO basalt_system;
GRANT INSERT, SELECT ON image_observed TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON images TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON images TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON join_tokens TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON leases TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON manifest_facts TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON manifest_items TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON manifests TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON migrations TO basalt_system;
GRANT INSERT, SELECT ON migrations TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON networks TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON networks TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON placements TO basalt_system;
GRANT SELECT ON placements TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON pools TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON ports TO basalt_system;
GRANT INSERT, SELECT ON ports TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON projects TO basalt_system;
GRANT SELECT ON projects TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON provider_status TO basalt_system;
GRANT SELECT ON provider_status TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON providers TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON providers TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON quotas TO basalt_system;
GRANT SELECT, UPDATE ON quotas TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON reconcile_events TO basalt_system;
GRANT SELECT ON reconcile_events TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON role_bindings TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON router_interfaces TO basalt_system;
GRANT INSERT, SELECT ON router_interfaces TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON router_placements TO basalt_system;
GRANT SELECT ON router_placements TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON router_vms TO basalt_system;
GRANT INSERT, SELECT ON router_vms TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON routers TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON routers TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON secrets TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON secrets TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON security_group_uses TO basalt_system;
GRANT INSERT, SELECT ON security_group_uses TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON security_groups TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON security_groups TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON service_tokens TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON task_logs TO basalt_system;
GRANT SELECT ON task_logs TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON task_work TO basalt_system;
GRANT INSERT, SELECT ON task_work TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON tasks TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON tasks TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON tasks_finished TO basalt_system;
GRANT SELECT ON tasks_finished TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON tenants TO basalt_system;
GRANT SELECT ON tenants TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON transfers TO basalt_system;
GRANT INSERT, SELECT ON transfers TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON users TO basalt_system;
GRANT DELETE, INSERT, SELECT, UPDATE ON vm_observed TO basalt_system;
GRANT SELECT ON vm_observed TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON vms TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON vms TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON volume_observed TO basalt_system;
GRANT SELECT ON volume_observed TO basalt_tenant;
GRANT DELETE, INSERT, SELECT, UPDATE ON volumes TO basalt_system;
GRANT INSERT, SELECT, UPDATE ON volumes TO basalt_tenant;
