-- A binding names a project and the tenant it is of. Nothing kept the two together, and a binding holds by its project:
-- one that was written with another tenant's id gave the role all the same. Such rows get the tenant that the project
-- has, so that nobody loses or gains a role by this.
ALTER TABLE role_bindings NO FORCE ROW LEVEL SECURITY;
ALTER TABLE projects NO FORCE ROW LEVEL SECURITY;

DELETE FROM role_bindings b USING projects p, role_bindings twin
WHERE p.id = b.project_id AND p.tenant_id <> b.tenant_id
    AND (twin.principal_id, twin.role, twin.project_id) = (b.principal_id, b.role, b.project_id)
    AND (twin.tenant_id = p.tenant_id OR twin.tenant_id <> p.tenant_id AND twin.id < b.id);
UPDATE role_bindings b SET tenant_id = p.tenant_id FROM projects p
WHERE p.id = b.project_id AND p.tenant_id <> b.tenant_id;

ALTER TABLE projects FORCE ROW LEVEL SECURITY;
ALTER TABLE role_bindings FORCE ROW LEVEL SECURITY;

ALTER TABLE role_bindings
    DROP CONSTRAINT role_bindings_project,
    ADD CONSTRAINT role_bindings_project_of_tenant FOREIGN KEY (project_id, tenant_id) REFERENCES projects (id, tenant_id);
