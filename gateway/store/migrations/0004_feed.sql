-- The change feed: one row for each changed row, written by statement triggers in the same transaction.
-- It carries no payload: readers read the rows themselves, in the snapshot of the pull.

CREATE TABLE change_log (
    xid xid8 NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
    source text NOT NULL,
    key text NOT NULL,
    op text NOT NULL,
    tenant_id uuid,
    project_id uuid
);
CREATE INDEX change_log_xid ON change_log (xid);
SELECT guard_system('change_log');
-- The triggers write as the owner, whoever made the change; nobody else may.
CREATE POLICY triggers_write ON change_log FOR INSERT TO basalt_owner WITH CHECK (true);
REVOKE INSERT, UPDATE ON change_log FROM basalt_system;

-- Readers that must not be pruned past, and the line below which rows are gone.
CREATE TABLE feed_cursors (
    holder uuid CONSTRAINT feed_cursors_id PRIMARY KEY,
    horizon xid8 NOT NULL,
    updated_at timestamptz NOT NULL
);
SELECT guard_system('feed_cursors');

CREATE TABLE feed_retention (
    singleton boolean CONSTRAINT feed_retention_id PRIMARY KEY CONSTRAINT feed_retention_one CHECK (singleton),
    pruned_below xid8 NOT NULL
);
INSERT INTO feed_retention VALUES (true, '0');
SELECT guard_system('feed_retention');

-- Puts a table on the feed. `key`, `tenant` and `project` are expressions over a row `r`.
CREATE FUNCTION feed_watch(source regclass, key text, tenant text, project text) RETURNS void
    LANGUAGE plpgsql AS $$
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
END $$;

CREATE FUNCTION feed_reload() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.change_log (xid, source, key, op)
    VALUES (pg_catalog.pg_current_xact_id(), TG_TABLE_NAME, '', 'reload');
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION feed_reload() FROM PUBLIC;

SELECT feed_watch('tenants', 'r.id', 'r.id', 'NULL::uuid');
SELECT feed_watch('projects', 'r.id', 'r.tenant_id', 'r.id');
SELECT feed_watch('tasks', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('hosts', 'r.id', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('host_facts', 'r.host_id', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('host_claims', 'r.host_id', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('host_certificates', 'r.serial', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('pools', 'r.id', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('manifests', 'r.host_id', 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('manifest_items', $$r.host_id || '/' || r.kind || '/' || r.id$$, 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('manifest_facts', $$r.host_id || '/' || r.kind || '/' || r.id$$, 'NULL::uuid', 'NULL::uuid');
SELECT feed_watch('networks', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('images', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('image_observed', 'r.image_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('vms', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('volumes', 'r.id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('volume_observed', 'r.volume_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('placements', 'r.vm_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('vm_observed', 'r.vm_id', 'r.tenant_id', 'r.project_id');
SELECT feed_watch('conditions', 'r.subject_id', 'r.tenant_id', 'r.project_id');

-- For readiness: the gateway's login may ask which schema this is, and nothing else without a role.
CREATE FUNCTION schema_version() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
    AS $$ SELECT coalesce(max(version), 0) FROM public._sqlx_migrations WHERE success $$;
