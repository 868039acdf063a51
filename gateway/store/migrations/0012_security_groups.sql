-- Security groups, and who uses them: what is used cannot go, and what goes cannot be used.

CREATE TABLE security_groups (
    id uuid CONSTRAINT security_groups_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    -- The groups that its rules name, as everybody reads them: {"web": id}. The uses hold the claims.
    named jsonb NOT NULL,
    CONSTRAINT security_groups_name UNIQUE (project_id, name),
    CONSTRAINT security_groups_id_project UNIQUE (id, project_id),
    CONSTRAINT security_groups_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
SELECT guard_tenant('security_groups', 'SELECT, INSERT, UPDATE');
SELECT feed_watch('security_groups', 'r.id', 'r.tenant_id', 'r.project_id');

-- A group is used by a network, by a VM (for all or some of its interfaces), or by the rules of a group.
CREATE TABLE security_group_uses (
    group_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    network_id uuid CONSTRAINT security_group_uses_network REFERENCES networks ON DELETE CASCADE,
    vm_id uuid CONSTRAINT security_group_uses_vm REFERENCES vms ON DELETE CASCADE,
    rules_of uuid CONSTRAINT security_group_uses_rules REFERENCES security_groups ON DELETE CASCADE,
    CONSTRAINT security_group_uses_one CHECK (num_nonnulls(network_id, vm_id, rules_of) = 1),
    CONSTRAINT security_group_uses_group FOREIGN KEY (group_id, project_id)
        REFERENCES security_groups (id, project_id)
);
CREATE INDEX security_group_uses_group_id ON security_group_uses (group_id);
CREATE INDEX security_group_uses_network_id ON security_group_uses (network_id) WHERE network_id IS NOT NULL;
CREATE INDEX security_group_uses_vm_id ON security_group_uses (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX security_group_uses_rules_of ON security_group_uses (rules_of) WHERE rules_of IS NOT NULL;
SELECT guard_tenant('security_group_uses', 'SELECT, INSERT');

-- The groups that a network names, sorted, as everybody reads them. (Those of VMs stand in their interfaces.)
ALTER TABLE networks ADD COLUMN security_groups jsonb NOT NULL DEFAULT '[]';

ALTER TABLE manifest_items DROP CONSTRAINT manifest_items_kind;
ALTER TABLE manifest_items ADD CONSTRAINT manifest_items_kind
    CHECK (kind IN ('security_group', 'network', 'image', 'volume', 'vm'));
ALTER TABLE manifest_facts DROP CONSTRAINT manifest_facts_kind;
ALTER TABLE manifest_facts ADD CONSTRAINT manifest_facts_kind
    CHECK (kind IN ('security_group', 'network', 'image', 'volume', 'vm'));
