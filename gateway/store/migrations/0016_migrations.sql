-- VMs on their way from one host to another. Who owns a VM is its placement's word alone; a row here says that it is to
-- change, and what the target was asked to keep free meanwhile.

CREATE TABLE migrations (
    id uuid CONSTRAINT migrations_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    vm_id uuid NOT NULL CONSTRAINT migrations_vm REFERENCES vms,
    vm text NOT NULL,
    task_id uuid NOT NULL,
    spec jsonb NOT NULL,
    mode text NOT NULL CONSTRAINT migrations_mode CHECK (mode IN ('live', 'cold')),
    source_host_id uuid NOT NULL,
    source text NOT NULL,
    source_epoch bigint NOT NULL,
    target_host_id uuid,
    target text,
    -- Hosts stand here by name too: what ended outlives them. A live one keeps both (see hosts::finalize).
    -- Where its volumes go there: {volume: pool}.
    pools jsonb NOT NULL DEFAULT '{}',
    copies_storage boolean NOT NULL DEFAULT false,
    -- What the target keeps free for it.
    claimed_cpus bigint NOT NULL DEFAULT 0,
    claimed_memory_bytes bigint NOT NULL DEFAULT 0,
    claimed_pools jsonb NOT NULL DEFAULT '{}',
    begun_at timestamptz,
    closed_at timestamptz,
    cancel_requested_at timestamptz,
    requested_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    ended_at timestamptz,
    outcome jsonb,
    CONSTRAINT migrations_ended CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT migrations_chosen CHECK ((target_host_id IS NULL) = (target IS NULL)),
    CONSTRAINT migrations_begun CHECK (begun_at IS NULL OR target_host_id IS NOT NULL),
    CONSTRAINT migrations_elsewhere CHECK (target_host_id <> source_host_id)
);
-- One at a time for each VM.
CREATE UNIQUE INDEX migrations_live ON migrations (vm_id) WHERE ended_at IS NULL;
CREATE INDEX migrations_vm_id ON migrations (vm_id);
CREATE INDEX migrations_project_id ON migrations (project_id, id);
CREATE INDEX migrations_hosts ON migrations (target_host_id) WHERE ended_at IS NULL;
SELECT guard_tenant('migrations', 'SELECT, INSERT, UPDATE (cancel_requested_at)');

SELECT feed_watch('migrations', 'r.id', 'r.tenant_id', 'r.project_id');
