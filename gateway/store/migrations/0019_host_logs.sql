-- Which lines for the logs of tasks were taken of each host: what is sent again is said once. Off the feed.
CREATE TABLE host_logs (
    host_id uuid CONSTRAINT host_logs_id PRIMARY KEY CONSTRAINT host_logs_host REFERENCES hosts,
    -- The newest start of the agent that wrote, and its last line.
    agent_boot uuid NOT NULL,
    sequence bigint NOT NULL
) WITH (fillfactor = 50);
SELECT guard_system('host_logs');
