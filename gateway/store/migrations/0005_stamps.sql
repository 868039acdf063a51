-- Which VMs a tenant has, and at which generation: what the most frequent reads ask first, in one round trip instead
-- of three (BEGIN, SELECT, ROLLBACK). The tenant is an argument, set for the one statement; the rows are still those
-- that row level security lets through, for the function's owner has no other right to them than this policy.

CREATE POLICY stamped_rows ON vms FOR SELECT TO basalt_owner USING (tenant_id = (SELECT current_tenant()));

CREATE FUNCTION vm_stamp(tenant uuid, project uuid, vm uuid, vm_name text) RETURNS TABLE (id uuid, generation bigint)
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_catalog.set_config('app.tenant', tenant::text, true);
    IF vm IS NOT NULL THEN
        RETURN QUERY SELECT x.id, x.generation FROM public.vms x WHERE x.id = vm AND x.project_id = project;
    ELSE
        RETURN QUERY SELECT x.id, x.generation FROM public.vms x WHERE x.project_id = project AND x.name = vm_name;
    END IF;
END $$;

CREATE FUNCTION vm_stamps(tenant uuid, project uuid, behind uuid, how_many bigint)
    RETURNS TABLE (id uuid, generation bigint) LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_catalog.set_config('app.tenant', tenant::text, true);
    RETURN QUERY SELECT x.id, x.generation FROM public.vms x WHERE x.project_id = project AND x.id > behind
        ORDER BY x.id LIMIT how_many;
END $$;

REVOKE EXECUTE ON FUNCTION vm_stamp(uuid, uuid, uuid, text), vm_stamps(uuid, uuid, uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vm_stamp(uuid, uuid, uuid, text), vm_stamps(uuid, uuid, uuid, bigint) TO basalt_gateway;
