-- Stamps for many askers of one project at once, and a page of them as one row: a row each cost more than finding them.

DROP FUNCTION vm_stamp(uuid, uuid, uuid, text), vm_stamps(uuid, uuid, uuid, bigint);

CREATE FUNCTION vm_stamps(tenant uuid, project uuid, ids_wanted uuid[], names_wanted text[])
    RETURNS TABLE (id uuid, name text, generation bigint) LANGUAGE plpgsql SECURITY DEFINER AS $$
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
END $$;

CREATE FUNCTION vm_page_stamps(tenant uuid, project uuid, behind uuid, how_many bigint)
    RETURNS TABLE (ids uuid[], generations bigint[]) LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_catalog.set_config('app.tenant', tenant::text, true);
    RETURN QUERY SELECT pg_catalog.array_agg(p.id), pg_catalog.array_agg(p.generation) FROM (
        SELECT x.id, x.generation FROM public.vms x WHERE x.project_id = project AND x.id > behind
        ORDER BY x.id LIMIT how_many) p;
END $$;

REVOKE EXECUTE ON FUNCTION vm_stamps(uuid, uuid, uuid[], text[]), vm_page_stamps(uuid, uuid, uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vm_stamps(uuid, uuid, uuid[], text[]), vm_page_stamps(uuid, uuid, uuid, bigint)
    TO basalt_gateway;
