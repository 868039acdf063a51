-- Live tasks stand in one small table, those that ended in partitions by the day on which they were asked for, with their
-- logs beside them: history costs those who work nothing, and is dropped by the day.

ALTER TABLE tasks
    -- What is asked for when every task in depends_on has completed; nothing of it is in the truth before.
    ADD COLUMN held jsonb,
    -- The attempt before this one.
    ADD COLUMN retry_of uuid;

-- The table has no other rows than live ones: what an index leaves out would only make updates dearer.
DROP INDEX tasks_live_deadline;
CREATE INDEX tasks_deadline ON tasks (deadline);
CREATE INDEX tasks_retry_of ON tasks (retry_of) WHERE retry_of IS NOT NULL;
-- Every task moves a few times and then goes: room for its next version on its page.
ALTER TABLE tasks SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- By id, which begins with the time at which it was given: who looks for an id looks into one partition.
CREATE TABLE tasks_finished (LIKE tasks INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (id);
ALTER TABLE tasks_finished ADD CONSTRAINT tasks_finished_id PRIMARY KEY (id);
CREATE INDEX tasks_finished_subject ON tasks_finished (subject_id, id);
CREATE INDEX tasks_finished_project ON tasks_finished (project_id, id);
CREATE INDEX tasks_finished_retry_of ON tasks_finished (retry_of) WHERE retry_of IS NOT NULL;
SELECT guard_tenant('tasks_finished', 'SELECT');

ALTER TABLE task_logs RENAME TO task_logs_before;
ALTER TABLE task_logs_before DROP CONSTRAINT task_logs_task, DROP CONSTRAINT task_logs_id;
CREATE TABLE task_logs (LIKE task_logs_before) PARTITION BY RANGE (task_id);
ALTER TABLE task_logs ADD CONSTRAINT task_logs_id PRIMARY KEY (task_id, seq);
SELECT guard_tenant('task_logs', 'SELECT');

-- The first id of a day.
CREATE FUNCTION first_id_of(of date) RETURNS uuid LANGUAGE sql IMMUTABLE
    AS $$ SELECT rpad(lpad(to_hex((extract(epoch FROM of::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid $$;

-- Makes a partition, and moves into it what came before it was there. Nobody reaches a partition but by its table.
CREATE FUNCTION task_partition(parent text, key text, called text, bounds text, low uuid, high uuid) RETURNS void
    LANGUAGE plpgsql AS $$
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
END $$;
REVOKE EXECUTE ON FUNCTION task_partition(text, text, text, text, uuid, uuid) FROM PUBLIC;

SELECT task_partition('tasks_finished', 'id', 'tasks_finished_other', 'DEFAULT', NULL, NULL);
SELECT task_partition('task_logs', 'task_id', 'task_logs_other', 'DEFAULT', NULL, NULL);

-- Makes the partitions of a day and the days after it, and drops those of the days before `kept_from`. It waits for
-- nobody for long: behind somebody who reads for hours, everybody else would wait for this. It is asked again soon, and
-- days ahead of the need. Gives how many it made and dropped.
CREATE FUNCTION keep_task_partitions(today date, days_ahead integer, kept_from date) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '200ms' AS $$
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
END $$;
REVOKE EXECUTE ON FUNCTION keep_task_partitions(date, integer, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_task_partitions(date, integer, date) TO basalt_system;

-- Whoever ends a task, and by whichever statement: it leaves the live ones in the same transaction. Two that end one task
-- meet at its row, and the second finds none. The feed has a line for a row that went from `tasks`, and finds it in
-- `tasks_finished`.
CREATE POLICY ended_rows ON tasks TO basalt_owner USING (finished_at IS NOT NULL) WITH CHECK (false);
CREATE POLICY ended_rows ON tasks_finished TO basalt_owner USING (true) WITH CHECK (true);
CREATE FUNCTION archive_ended_tasks() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
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
END $$;
REVOKE EXECUTE ON FUNCTION archive_ended_tasks() FROM PUBLIC;

-- What there is goes among the others, which are pruned row by row.
ALTER TABLE task_logs_before NO FORCE ROW LEVEL SECURITY;
INSERT INTO task_logs_other SELECT * FROM task_logs_before;
DROP TABLE task_logs_before;
ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY;
INSERT INTO tasks_finished_other SELECT * FROM tasks WHERE finished_at IS NOT NULL;
DELETE FROM tasks WHERE finished_at IS NOT NULL;
ALTER TABLE tasks FORCE ROW LEVEL SECURITY;

CREATE TRIGGER ended AFTER UPDATE ON tasks REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION archive_ended_tasks();
