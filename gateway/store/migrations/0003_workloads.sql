-- What tenants declare (intent) and, in tables of their own, what was seen of it (facts).

CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE SEQUENCE network_vnis AS integer MINVALUE 4096 MAXVALUE 16777215 NO CYCLE;
GRANT USAGE ON SEQUENCE network_vnis TO basalt_tenant, basalt_system;

CREATE TABLE networks (
    id uuid CONSTRAINT networks_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    cidr cidr NOT NULL,
    vni integer NOT NULL DEFAULT nextval('network_vnis') CONSTRAINT networks_vni UNIQUE,
    CONSTRAINT networks_name UNIQUE (project_id, name),
    CONSTRAINT networks_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id),
    CONSTRAINT networks_cidr_overlap EXCLUDE USING gist (project_id WITH =, cidr inet_ops WITH &&)
);
SELECT guard_tenant('networks', 'SELECT, INSERT, UPDATE');

-- Where the search for the next free address goes on; its row lock orders all who want one. Addresses as numbers.
CREATE TABLE address_cursors (
    network_id uuid CONSTRAINT address_cursors_id PRIMARY KEY
        CONSTRAINT address_cursors_network REFERENCES networks ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    first_address bigint NOT NULL,
    last_address bigint NOT NULL,
    gateway bigint NOT NULL,
    next_address bigint NOT NULL,
    used bigint NOT NULL DEFAULT 0 CONSTRAINT address_cursors_used CHECK (used >= 0),
    -- Set when the network is to be deleted: nothing new attaches.
    closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
SELECT guard_tenant('address_cursors', 'SELECT, INSERT, UPDATE');

-- Takes the wanted address, or the next free one. Each statement of a volatile function sees what was committed
-- before it began, so what others took while we waited for the row lock is seen here.
CREATE FUNCTION claim_address(network uuid, wanted inet, spoken_for inet[]) RETURNS inet
    LANGUAGE plpgsql VOLATILE AS $$
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
END $$;

CREATE TABLE images (
    id uuid CONSTRAINT images_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    -- Visible to every project of the tenant.
    shared boolean NOT NULL,
    CONSTRAINT images_name UNIQUE (project_id, name),
    CONSTRAINT images_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
CREATE INDEX images_shared ON images (tenant_id, name) WHERE shared;
SELECT guard_tenant('images', 'SELECT, INSERT, UPDATE');

CREATE TABLE image_observed (
    image_id uuid CONSTRAINT image_observed_id PRIMARY KEY CONSTRAINT image_observed_image REFERENCES images,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    observed jsonb NOT NULL,
    reported_at timestamptz NOT NULL
);
SELECT guard_tenant('image_observed', 'SELECT, INSERT');

CREATE TABLE transfers (
    id uuid CONSTRAINT transfers_id PRIMARY KEY,
    image_id uuid NOT NULL CONSTRAINT transfers_image REFERENCES images ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    direction text NOT NULL CONSTRAINT transfers_direction CHECK (direction IN ('upload', 'download')),
    host_id uuid,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX transfers_image_id ON transfers (image_id);
SELECT guard_tenant('transfers', 'SELECT, INSERT');

-- Events of the image service that were applied: it delivers at least once.
CREATE TABLE image_events (
    id uuid CONSTRAINT image_events_id PRIMARY KEY,
    image_id uuid NOT NULL,
    applied_at timestamptz NOT NULL
);
SELECT guard_system('image_events');

-- Keeps an image from being deleted until this transaction ends. A fresh snapshot, as above.
CREATE FUNCTION hold_image(image uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM images WHERE id = image AND deletion_requested_at IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'image % is going', image
            USING ERRCODE = 'BS003', CONSTRAINT = 'image_going', DETAIL = image::text;
    END IF;
    RETURN image;
END $$;

CREATE TABLE vms (
    id uuid CONSTRAINT vms_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    -- json, not jsonb: read a hundred at a time as they are, and looked into hardly ever. Writing jsonb out as text
    -- was most of what a list cost.
    spec json NOT NULL,
    -- Count of redeploys.
    incarnation bigint NOT NULL,
    -- The last one-shot verb: carried out at most once for its id.
    operation json,
    -- Resolved interfaces and disks, as everybody reads them; ports and volumes hold the claims.
    nics json NOT NULL,
    disks json NOT NULL,
    CONSTRAINT vms_name UNIQUE (project_id, name),
    CONSTRAINT vms_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id)
);
CREATE INDEX vms_project_id ON vms (project_id, id);
SELECT guard_tenant('vms', 'SELECT, INSERT, UPDATE');

CREATE TABLE ports (
    id uuid CONSTRAINT ports_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    network_id uuid NOT NULL CONSTRAINT ports_network REFERENCES networks,
    vm_id uuid NOT NULL CONSTRAINT ports_vm REFERENCES vms,
    nic_index integer NOT NULL,
    mac text NOT NULL,
    address inet NOT NULL,
    CONSTRAINT ports_address UNIQUE (network_id, address),
    CONSTRAINT ports_mac UNIQUE (network_id, mac)
);
CREATE INDEX ports_vm_id ON ports (vm_id);
SELECT guard_tenant('ports', 'SELECT, INSERT');

-- A volume is bound to a host and a pool when the VM that needs it is placed.
CREATE TABLE volumes (
    id uuid CONSTRAINT volumes_id PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_requested_at timestamptz,
    spec jsonb NOT NULL,
    size_bytes bigint NOT NULL,
    image_id uuid CONSTRAINT volumes_image REFERENCES images,
    vm_id uuid CONSTRAINT volumes_vm REFERENCES vms,
    -- Made with its VM, goes with it.
    owned boolean NOT NULL,
    host_id uuid CONSTRAINT volumes_host REFERENCES hosts,
    pool text,
    incarnation bigint NOT NULL,
    CONSTRAINT volumes_name UNIQUE (project_id, name),
    CONSTRAINT volumes_project FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id),
    CONSTRAINT volumes_bound CHECK ((host_id IS NULL) = (pool IS NULL))
);
CREATE INDEX volumes_vm_id ON volumes (vm_id);
CREATE INDEX volumes_image_id ON volumes (image_id);
CREATE INDEX volumes_host_id ON volumes (host_id);
SELECT guard_tenant('volumes', 'SELECT, INSERT, UPDATE');

CREATE TABLE volume_observed (
    volume_id uuid CONSTRAINT volume_observed_id PRIMARY KEY CONSTRAINT volume_observed_volume REFERENCES volumes,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL,
    observed_generation bigint NOT NULL,
    observed jsonb NOT NULL,
    stage text NOT NULL,
    reported_at timestamptz NOT NULL
);
SELECT guard_tenant('volume_observed', 'SELECT');

-- An epoch is never given twice: the row stays when the host is taken away.
CREATE TABLE placements (
    vm_id uuid CONSTRAINT placements_id PRIMARY KEY CONSTRAINT placements_vm REFERENCES vms,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid CONSTRAINT placements_host REFERENCES hosts,
    host text,
    epoch bigint NOT NULL,
    generation bigint NOT NULL,
    explanation jsonb NOT NULL,
    decided_at timestamptz NOT NULL,
    claimed_cpus bigint NOT NULL,
    claimed_memory_bytes bigint NOT NULL,
    CONSTRAINT placements_named CHECK ((host_id IS NULL) = (host IS NULL))
);
CREATE INDEX placements_host_id ON placements (host_id);
SELECT guard_tenant('placements', 'SELECT');

CREATE TABLE vm_observed (
    vm_id uuid CONSTRAINT vm_observed_id PRIMARY KEY CONSTRAINT vm_observed_vm REFERENCES vms,
    tenant_id uuid NOT NULL,
    project_id uuid NOT NULL,
    host_id uuid NOT NULL,
    epoch bigint NOT NULL,
    observed_generation bigint NOT NULL,
    observed json NOT NULL,
    stage text NOT NULL,
    reported_at timestamptz NOT NULL
);
SELECT guard_tenant('vm_observed', 'SELECT');

CREATE TABLE conditions (
    subject_id uuid CONSTRAINT conditions_id PRIMARY KEY,
    subject_kind text NOT NULL,
    tenant_id uuid,
    project_id uuid,
    conditions json NOT NULL
);
SELECT guard_tenant('conditions', 'SELECT');
