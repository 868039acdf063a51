//! Every route of both doors, in one place.

use crate::{
    App, adoption, agent, agents, apply, audit, consoles, counters, debug, deployment_history,
    deployment_logs, deployments, directory, drains, enrolment, explain, health, host_loss, hosts,
    image_events, image_work, images, login, metrics, migrations, networks, pools, ports, projects,
    providers, role_bindings, routers, secrets, security_groups, servers, service_tokens, sim, task_logs,
    tasks, tenants, unstick, users, vm_verbs, vms, volumes, watch,
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The users' door.
pub fn users(document: OpenApi) -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document)
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::openapi_json))
        .routes(routes!(metrics::read_metrics))
        .routes(routes!(debug::ask_graph))
        .routes(routes!(login::login))
        .routes(routes!(login::logout))
        .routes(routes!(login::whoami))
        .routes(routes!(tenants::list_tenants, tenants::create_tenant))
        .routes(routes!(tenants::get_tenant))
        .routes(routes!(projects::list_projects, projects::create_project))
        .routes(routes!(projects::get_project, projects::update_project, projects::delete_project))
        .merge(machines())
        .merge(platforms())
        .merge(storage())
        .merge(infrastructure())
        .routes(routes!(tasks::list_tasks))
        .routes(routes!(tasks::get_task))
        .routes(routes!(task_logs::list_task_logs))
        .routes(routes!(tasks::cancel_task))
        .routes(routes!(tasks::retry_task))
        .routes(routes!(tasks::put_task_dependencies))
        .routes(routes!(audit::list_audit_events))
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(users::get_user, users::delete_user))
        .routes(routes!(service_tokens::list_service_tokens, service_tokens::create_service_token))
        .routes(routes!(service_tokens::revoke_service_token))
        .routes(routes!(role_bindings::list_role_bindings, role_bindings::create_role_binding))
        .routes(routes!(role_bindings::delete_role_binding))
        .routes(routes!(watch::watch))
}

fn machines() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(vms::list_vms, vms::create_vm))
        .routes(routes!(vms::get_vm, vms::update_vm, vms::delete_vm))
        .routes(routes!(vm_verbs::start_vm))
        .routes(routes!(vm_verbs::stop_vm))
        .routes(routes!(vm_verbs::pause_vm))
        .routes(routes!(vm_verbs::resume_vm))
        .routes(routes!(vm_verbs::reboot_vm))
        .routes(routes!(vm_verbs::reset_vm))
        .routes(routes!(vm_verbs::redeploy_vm))
        .routes(routes!(migrations::migrate_vm))
        .routes(routes!(migrations::list_migrations))
        .routes(routes!(migrations::get_migration))
        .routes(routes!(consoles::read_console, consoles::open_console))
        .routes(routes!(explain::explain_vm))
        .routes(routes!(explain::explain_placement))
        .routes(routes!(networks::list_networks, networks::create_network))
        .routes(routes!(networks::get_network, networks::update_network, networks::delete_network))
        .routes(routes!(routers::list_routers, routers::create_router))
        .routes(routes!(routers::get_router, routers::update_router, routers::delete_router))
        .routes(routes!(ports::list_ports))
        .routes(routes!(ports::get_port))
        .routes(routes!(security_groups::list_security_groups, security_groups::create_security_group))
        .routes(routes!(
            security_groups::get_security_group,
            security_groups::update_security_group,
            security_groups::delete_security_group
        ))
        .routes(routes!(security_groups::explain_port))
        .routes(routes!(counters::read_port_counters))
}

/// What runs besides VMs, and where.
fn platforms() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(agents::list_agents, agents::create_agent))
        .routes(routes!(agents::get_agent, agents::update_agent, agents::delete_agent))
        .routes(routes!(servers::list_servers, servers::create_server))
        .routes(routes!(servers::get_server, servers::update_server, servers::delete_server))
        .routes(routes!(providers::list_providers, providers::create_provider))
        .routes(routes!(providers::get_provider, providers::update_provider, providers::delete_provider))
        .routes(routes!(secrets::list_secrets, secrets::create_secret))
        .routes(routes!(secrets::get_secret, secrets::update_secret, secrets::delete_secret))
        .routes(routes!(deployments::list_deployments, deployments::create_deployment))
        .routes(routes!(
            deployments::get_deployment,
            deployments::update_deployment,
            deployments::delete_deployment
        ))
        .routes(routes!(deployments::cancel_deployment))
        .routes(routes!(deployments::deploy_deployment))
        .routes(routes!(deployments::retry_deployment))
        .routes(routes!(deployments::adopt_deployment))
        .routes(routes!(deployment_history::list_deployment_events))
        .routes(routes!(deployment_history::explain_deployment))
        .routes(routes!(deployment_logs::read_deployment_logs))
        .routes(routes!(apply::apply))
}

fn storage() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(volumes::list_volumes, volumes::create_volume))
        .routes(routes!(volumes::get_volume, volumes::delete_volume))
        .routes(routes!(images::list_images, images::create_image))
        .routes(routes!(images::get_image, images::delete_image))
        .routes(routes!(images::begin_upload))
}

fn infrastructure() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(sim::ask_sim))
        .routes(routes!(unstick::get_unstick, unstick::take_way_out))
        .routes(routes!(hosts::list_hosts, hosts::create_host))
        .routes(routes!(hosts::get_host, hosts::update_host, hosts::delete_host))
        .routes(routes!(hosts::create_join_token))
        .routes(routes!(hosts::revoke_host))
        .routes(routes!(drains::drain_host))
        .routes(routes!(drains::list_drains))
        .routes(routes!(drains::get_drain))
        .routes(routes!(host_loss::confirm_power_off))
        .routes(routes!(adoption::adopt))
        .routes(routes!(pools::list_pools))
        .routes(routes!(pools::get_pool))
}

/// The door of agents and image service.
pub fn agents(document: OpenApi) -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document)
        .routes(routes!(enrolment::enrol))
        .routes(routes!(enrolment::renew))
        .routes(routes!(agent::read_manifest))
        .routes(routes!(directory::read_directory))
        .routes(routes!(agent::report))
        .routes(routes!(task_logs::take_task_logs))
        .routes(routes!(host_loss::renew_lease))
        .routes(routes!(agent::begin_download))
        .routes(routes!(consoles::list_console_tickets))
        .routes(routes!(consoles::redeem_console_ticket))
        .routes(routes!(consoles::refuse_console_ticket))
        .routes(routes!(counters::answer_question))
        .routes(routes!(image_events::take_image_event))
        .routes(routes!(image_work::claim_work))
        .routes(routes!(image_work::renew_work))
}

/// Both doors, for the document.
pub fn all(document: OpenApi) -> OpenApiRouter<App> {
    users(document).merge(agents(OpenApi::default()))
}
