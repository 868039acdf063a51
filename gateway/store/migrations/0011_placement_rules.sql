-- Hard affinity and anti-affinity of VMs, where the database checks them: {"affinity": [labels], "anti_affinity": [labels]}.
-- Null for a VM without any, which is most of them; the index has only the others.

ALTER TABLE vms ADD COLUMN placement_rules jsonb;
CREATE INDEX vms_placement_rules ON vms (project_id) WHERE placement_rules IS NOT NULL;

-- Rules that VMs break which the caller has just placed. The caller holds the claims of their hosts, so nobody places
-- others beside them now; each statement of a volatile function sees what was committed before it began, so what others
-- placed while we waited for the claims is seen here. Costs one look into an empty index where nobody has rules.
CREATE FUNCTION broken_placement_rules(placed uuid[]) RETURNS TABLE (vm_id uuid, apart boolean, beside text)
    LANGUAGE plpgsql VOLATILE AS $$
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
END $$;

REVOKE EXECUTE ON FUNCTION broken_placement_rules(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION broken_placement_rules(uuid[]) TO basalt_system;
