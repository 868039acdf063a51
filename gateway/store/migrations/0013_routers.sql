-- Routers, the networks whose gateway they are, the VMs that they name, the addresses that they hold, and their hosts.

CREATE TABLE routers (
    id uuid CONSTRAINT routers_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    -- What its names came to; interfaces, VMs and ports below hold the claims.
    wiring jsonb NOT NULL,
    CONSTRAINT routers_name UNIQUE (project_id, name),
    CONSTRAINT routers_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
SELECT guard_tenant('routers', 'SELECT, INSERT, UPDATE');

-- A network's gateway is one router's.
CREATE TABLE router_interfaces (
    network_id uuid CONSTRAINT router_interfaces_id PRIMARY KEY
        CONSTRAINT router_interfaces_network REFERENCES networks,
    router_id uuid NOT NULL CONSTRAINT router_interfaces_router REFERENCES routers,
    tenant_id uuid NOT NULL
);
CREATE INDEX router_interfaces_router_id ON router_interfaces (router_id);
SELECT guard_tenant('router_interfaces', 'SELECT, INSERT');

-- VMs that port forwards and floating addresses lead to.
CREATE TABLE router_vms (
    router_id uuid CONSTRAINT router_vms_router REFERENCES routers,
    vm_id uuid CONSTRAINT router_vms_vm REFERENCES vms,
    tenant_id uuid NOT NULL,
    CONSTRAINT router_vms_id PRIMARY KEY (router_id, vm_id)
);
CREATE INDEX router_vms_vm_id ON router_vms (vm_id);
SELECT guard_tenant('router_vms', 'SELECT, INSERT');

-- A router holds addresses of its uplink's network beside VMs: its own with a MAC address, floating ones without.
ALTER TABLE ports
    ALTER COLUMN vm_id DROP NOT NULL,
    ALTER COLUMN nic_index DROP NOT NULL,
    ALTER COLUMN mac DROP NOT NULL,
    ADD COLUMN router_id uuid CONSTRAINT ports_router REFERENCES routers,
    ADD CONSTRAINT ports_owner CHECK ((vm_id IS NULL) <> (router_id IS NULL)),
    ADD CONSTRAINT ports_vm_nic CHECK (vm_id IS NULL OR (nic_index IS NOT NULL AND mac IS NOT NULL));
CREATE INDEX ports_router_id ON ports (router_id);

-- A router that changes gives back what it held, but for some addresses. Tenants delete nothing; this deletes for them
-- what is theirs and a router's, and its owner has no other right to these rows than the policies say.
CREATE POLICY released_rows ON ports TO basalt_owner
    USING (router_id IS NOT NULL AND tenant_id = (SELECT current_tenant())) WITH CHECK (false);
CREATE POLICY released_rows ON router_interfaces TO basalt_owner
    USING (tenant_id = (SELECT current_tenant())) WITH CHECK (false);
CREATE POLICY released_rows ON router_vms TO basalt_owner
    USING (tenant_id = (SELECT current_tenant())) WITH CHECK (false);
CREATE FUNCTION release_router(router uuid, kept uuid[]) RETURNS TABLE (network_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM public.router_interfaces x WHERE x.router_id = router;
    DELETE FROM public.router_vms x WHERE x.router_id = router;
    RETURN QUERY DELETE FROM public.ports x WHERE x.router_id = router AND x.id <> ALL (kept) RETURNING x.network_id;
END $$;
REVOKE EXECUTE ON FUNCTION release_router(uuid, uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION release_router(uuid, uuid[]) TO basalt_tenant;

-- Where a router is: two hosts, or one. No host has two routers by one VRRP id.
CREATE TABLE router_placements (
    router_id uuid CONSTRAINT router_placements_router REFERENCES routers,
    slot smallint CONSTRAINT router_placements_slot CHECK (slot IN (0, 1)),
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL CONSTRAINT router_placements_host REFERENCES hosts,
    host text NOT NULL,
    vrid smallint NOT NULL CONSTRAINT router_placements_vrid CHECK (vrid BETWEEN 1 AND 255),
    decided_at timestamptz NOT NULL,
    CONSTRAINT router_placements_id PRIMARY KEY (router_id, slot),
    CONSTRAINT router_placements_twice UNIQUE (router_id, host_id),
    CONSTRAINT router_placements_host_vrid UNIQUE (host_id, vrid)
);
SELECT guard_tenant('router_placements', 'SELECT');

SELECT feed_watch('routers', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('router_placements', $$r.router_id || '/' || r.slot$$, 'r.tenant_id', 'r.project_id');

-- Routers are items of manifests too.
DO $$
DECLARE
    item text;
    kinds text;
BEGIN
    FOREACH item IN ARRAY ARRAY['manifest_items', 'manifest_facts'] LOOP
        SELECT pg_get_constraintdef(oid) INTO STRICT kinds FROM pg_constraint WHERE conname = item || '_kind';
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', item, item || '_kind');
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I %s', item, item || '_kind', replace(kinds, 'ARRAY[', 'ARRAY[''router''::text, '));
    END LOOP;
END $$;
