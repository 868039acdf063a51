-- A wire belongs to one network: two with the same VLAN of the same uplink would be one broadcast domain, whoever's they
-- are. Untagged frames are one such wire too. And IPv6 prefixes of a project do not overlap, like its IPv4 ranges.

ALTER TABLE networks
    ADD COLUMN uplink text GENERATED ALWAYS AS (spec #>> '{segment,uplink}') STORED,
    ADD COLUMN vlan_id integer GENERATED ALWAYS AS ((spec #>> '{segment,vlan_id}')::integer) STORED,
    ADD COLUMN cidr6 cidr GENERATED ALWAYS AS ((spec ->> 'cidr6')::cidr) STORED,
    ADD CONSTRAINT networks_cidr6_overlap EXCLUDE USING gist (project_id WITH =, cidr6 inet_ops WITH &&);
CREATE UNIQUE INDEX networks_wire ON networks (uplink, vlan_id) NULLS NOT DISTINCT WHERE uplink IS NOT NULL;
