//! What an object waits for, and the ways out. Read from the truth at the moment of asking; a way out is judged anew in
//! the transaction that takes it.

use crate::{
    App, Error,
    authentication::Permit,
    body::Json,
    explain,
    query::{NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
};
use basalt_model::{
    CapabilityReason, ConditionStatus, Epoch, HostId, VmId,
    hosts::{HOST_LEASE_SECONDS, HostState},
    migrations::{MigrationMode, MigrationOutcome, MigrationResult, Motion},
    roles::{Role, Scope, allows},
    tasks::{Task, TaskKind},
    vms::DiskSource,
};
use basalt_plan::{
    migrations::{self as plan, Decision, Side, Truth},
    placement::HostView,
    unstick::{OnHost, Situation, judge},
};
use basalt_store::{
    Key, SystemTx, host_loss,
    manifests::Fact,
    migrations::{MigrationRow, Settlement},
    tasks,
    unstick::{self, Object, Standing},
    vms, volumes,
};
use basalt_wire::rest::{Accepted, Evidence, TakeWayOut, Unstick, WayOut};
use std::collections::BTreeMap;
use uuid::Uuid;

type Hosts = BTreeMap<HostId, HostView>;

/// Says what an object waits for, what is known about it, and which ways out are safe now.
#[utoipa::path(get, path = "/v1/unstick/{kind}/{id}", tag = "operation",
    params(("kind" = String, Path, description = "`vm`, `volume`, `image`, `network`, `router` or `host`"), ("id" = Uuid, Path, description = "Id")),
    responses((status = 200, body = Unstick), crate::openapi::Problems))]
pub async fn get_unstick(
    State(app): State<App>,
    permit: Permit,
    Path((kind, id)): Path<(String, String)>,
    _: Query<NoParams>,
) -> Result<Answer<Unstick>, Error> {
    let mut tx = app.store.system_read().await?;
    let object = find(&mut tx, &permit, &kind, &id).await?;
    Ok(Answer(look(&app, &mut tx, &object).await?.shown))
}

/// Takes a way out that is safe now; refused with the reason if it is not any more. What tenants share, and who owns a VM
/// that is on its way, only operators of the whole system decide.
#[utoipa::path(post, path = "/v1/unstick/{kind}/{id}", tag = "operation", request_body = TakeWayOut,
    params(("kind" = String, Path, description = "`vm`, `volume`, `image`, `network`, `router` or `host`"), ("id" = Uuid, Path, description = "Id")),
    responses((status = 200, body = Accepted<Unstick>), crate::openapi::Problems))]
pub async fn take_way_out(
    State(app): State<App>,
    permit: Permit,
    Path((kind, id)): Path<(String, String)>,
    _: Query<NoParams>,
    Json { value: TakeWayOut { way }, .. }: Json<TakeWayOut>,
) -> Result<Answer<Accepted<Unstick>>, Error> {
    let mut tx = app.store.system().await?;
    let object = find(&mut tx, &permit, &kind, &id).await?;
    let by_system = matches!(way, WayOut::Source | WayOut::Target | WayOut::Forget | WayOut::ConfirmPowerOff);
    permit.require(&if by_system { Scope::System } else { scope(&object) })?;
    let seen = look(&app, &mut tx, &object).await?;
    let found = seen.shown.outcomes.iter().find(|o| o.way == way);
    let Some(outcome) = found else {
        let legal: Vec<_> =
            seen.shown.outcomes.iter().filter(|o| o.refused.is_none()).map(|o| o.way.as_str()).collect();
        return Err(refused(CapabilityReason::new(
            "no_way_out",
            format!("{kind}/{}", object.name),
            format!("{} is no way out of where it is", way.as_str()),
            format!("choose one of {}", legal.join(", ")),
        )));
    };
    if let Some(reason) = &outcome.refused {
        return Err(refused(reason.clone()));
    }
    let task = take(&app, &permit, tx, &object, &seen, way).await?;
    Ok(Answer(Accepted { object: seen.shown, task }))
}

fn refused(reason: CapabilityReason) -> Error {
    Error::Conflict { code: "way_out_refused", detail: reason.to_string(), reasons: vec![reason] }
}

/// Finds an object that the caller may see; any other does not exist.
async fn find(tx: &mut SystemTx, permit: &Permit, kind: &str, id: &str) -> Result<Object, Error> {
    let unknown = || Error::not_found("object", format!("{kind}/{id}"));
    let id: Uuid = id.parse().map_err(|_| unknown())?;
    match unstick::find(tx, kind, id).await {
        Ok(object) if allows(&permit.principal.grants, Role::Viewer, &scope(&object)) => Ok(object),
        Ok(_) | Err(basalt_store::Error::NotFound { .. }) => Err(unknown()),
        Err(e) => Err(e.into()),
    }
}

fn scope(object: &Object) -> Scope {
    match (object.tenant_id, object.project_id) {
        (Some(tenant_id), Some(project_id)) => Scope::Project { tenant_id, project_id },
        (Some(tenant_id), None) => Scope::Tenant { tenant_id },
        (None, _) => Scope::System,
    }
}

struct Look {
    shown: Unstick,
    migration: Option<MigrationRow>,
    task: Option<Task>,
}

async fn look(app: &App, tx: &mut SystemTx, object: &Object) -> Result<Look, Error> {
    let hosts: Hosts = app
        .hub
        .read(|rows| rows.placement_hosts(|h| explain::seen(app, h), app.clock.now()))
        .into_iter()
        .map(|h| (h.id, h))
        .collect();
    let standing = unstick::standing(tx, object).await?;
    let conditions = unstick::conditions(tx, object.id).await?;
    let live = unstick::tasks(tx, object.id).await?;
    let mut proven_dead = None;
    let mut on = Vec::new();
    if object.kind == "host" {
        let id = HostId(object.id);
        proven_dead = Some(host_loss::death(tx, id).await?.is_some());
        on.extend(itself(tx, &hosts, id).await?);
    }
    for one in &standing {
        on.push(on_host(tx, &hosts, one).await?);
    }
    let migration = match object.kind.as_str() {
        "vm" => unstick::migration(tx, VmId(object.id)).await?,
        _ => None,
    };
    let decision = match &migration {
        Some((row, facts)) => Some(decided(app, tx, &hosts, row, facts).await?),
        None => None,
    };
    let task = live.iter().find(|t| !t.kind.is_deletion() && t.kind != TaskKind::VmRedeploy).cloned();
    let waits = conditions.iter().find(|c| c.kind == "Ready" && c.status != ConditionStatus::True);
    let situation = Situation {
        label: format!("{}/{}", object.kind, object.name),
        waits: waits.map(|c| c.message.clone()).unwrap_or_default(),
        progressing: conditions.iter().any(|c| c.kind == "Progressing" && c.status == ConditionStatus::True),
        deleting: object.deleting,
        on,
        task: task.as_ref().map(|t| format!("task {} ({})", t.id, t.stage)),
        migration: decision,
        proven_dead,
        redeploy: redeploy(tx, object).await?,
        deletable: object.kind == "vm" || (object.kind == "volume" && object.owner.is_none()),
    };
    let (stuck, summary, outcomes) = judge(&situation);
    let mut facts: Vec<Evidence> = Vec::new();
    for c in &conditions {
        let says = format!("{} ({})", c.message, c.reason);
        facts.push(Evidence { source: format!("condition {}", c.kind), says, at: Some(c.since) });
    }
    facts.extend(situation.on.iter().zip(&standing).map(|(on, one)| said(on, one)));
    facts.extend(live.iter().map(|t| Evidence {
        source: format!("task {}", t.id),
        says: format!("{} %, {}", t.progress, t.stage),
        at: Some(t.started_at.unwrap_or(t.created_at)),
    }));
    let Object { kind, id, name, .. } = object.clone();
    let shown = Unstick { kind, id, name, stuck, summary, facts, outcomes };
    Ok(Look { shown, migration: migration.map(|m| m.0), task })
}

async fn on_host(tx: &mut SystemTx, hosts: &Hosts, one: &Standing) -> Result<OnHost, Error> {
    let id = one.item.host_id;
    let state = hosts.get(&id).map_or(HostState::Removed, |h| h.state);
    Ok(OnHost {
        host: one.host.clone(),
        state,
        seen_at: unstick::seen_at(tx, id).await?,
        present: one.item.item.present,
        gone: one.fact.as_ref().is_some_and(|f| f.gone),
        says: one.fact.as_ref().map(|f| f.stage.clone()).unwrap_or_default(),
        reported_at: one.fact.as_ref().map(|f| f.reported_at),
    })
}

fn said(on: &OnHost, one: &Standing) -> Evidence {
    let item = &one.item.item;
    let wants = if item.present { "is to have it" } else { "is to remove it" };
    let state =
        serde_json::to_value(on.state).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let mut says =
        format!("the host is {state} and {wants} at generation {} epoch {}", item.generation.0, item.epoch.0);
    if let Some(fact) = &one.fact {
        let what = if fact.gone { "nothing of it is left".into() } else { brief(fact) };
        says += &format!("; it said of generation {} epoch {}: {what}", fact.generation.0, fact.epoch.0);
        if !fact.stage.is_empty() {
            says += &format!(", {}", fact.stage);
        }
    }
    Evidence { source: format!("host {}, {}", on.host, item.kind), says, at: on.reported_at }
}

/// The words of a fact that people look for.
fn brief(fact: &Fact) -> String {
    let text =
        |name: &str| fact.observed.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let motion = fact.observed.get("motion").and_then(|m| m.get("state")).and_then(|s| s.as_str());
    let blocked = fact.observed.get("blocked").and_then(|b| b.get("message")).and_then(|m| m.as_str());
    let said = [
        text("power").map(|p| format!("power {p}")),
        text("ready").map(|r| format!("ready {r}")),
        motion.map(|m| format!("on its way: {m}")),
        blocked.map(|b| format!("cannot: {b}")),
    ];
    said.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn decided(
    app: &App,
    tx: &mut SystemTx,
    hosts: &Hosts,
    row: &MigrationRow,
    facts: &[Fact],
) -> Result<Decision, Error> {
    let migration = &row.migration;
    let truth = Truth {
        chosen: migration.target_host_id.is_some(),
        begun: row.begun_at.is_some(),
        cancelled: migration.cancel_requested_at.is_some(),
        overdue: migration.deadline < app.clock.now(),
        copies_storage: migration.copies_storage,
        gives_way: false,
        cold: migration.mode == MigrationMode::Cold,
    };
    let Some(target) = migration.target_host_id else { return Ok(Decision::Wait("a host is being chosen")) };
    let mut dead = Vec::new();
    for fact in facts {
        dead.extend(host_loss::death(tx, fact.host_id).await?.map(|_| fact.host_id));
    }
    let motions: Vec<Option<Motion>> = facts
        .iter()
        .map(|f| f.observed.get("motion").cloned().and_then(|m| serde_json::from_value(m).ok()))
        .collect();
    let side = |host: HostId, epoch: Epoch| {
        let said = facts.iter().zip(&motions).find(|(f, _)| f.host_id == host && f.epoch == epoch);
        let leased = |f: &Fact| f.observed.get("leased").and_then(serde_json::Value::as_bool) == Some(true);
        let state = hosts.get(&host).map(|h| h.state);
        Side {
            heard: plan::heard(state, said.is_some_and(|(f, _)| leased(f)), dead.contains(&host)),
            power: Default::default(),
            motion: said.and_then(|(_, m)| m.as_ref()).filter(|m| m.id == migration.id),
            blocked: None,
        }
    };
    let source = side(migration.source_host_id, migration.source_epoch);
    let there = side(target, migration.target_epoch());
    Ok(plan::decide(truth, plan::at_source(truth, &source), plan::at_target(Some(&there))))
}

/// A host as it stands for itself.
async fn itself(tx: &mut SystemTx, hosts: &Hosts, id: HostId) -> Result<Option<OnHost>, Error> {
    let Some(host) = hosts.get(&id) else { return Ok(None) };
    Ok(Some(OnHost {
        host: host.name.clone(),
        state: host.state,
        seen_at: unstick::seen_at(tx, id).await?,
        present: true,
        gone: false,
        says: String::new(),
        reported_at: None,
    }))
}

/// What making a VM anew loses; none when it has no image.
async fn redeploy(tx: &mut SystemTx, object: &Object) -> Result<Option<String>, Error> {
    if object.kind != "vm" {
        return Ok(None);
    }
    let found = vms::get_by_id(tx, VmId(object.id)).await?;
    let has_image = found.vm.spec.disks.iter().any(|d| matches!(d.source, DiskSource::Image { .. }));
    Ok((has_image && !found.vm.spec.protected).then(|| "what its own disks hold".to_owned()))
}

async fn take(
    app: &App,
    permit: &Permit,
    mut tx: SystemTx,
    object: &Object,
    seen: &Look,
    way: WayOut,
) -> Result<Option<Task>, Error> {
    let change = permit.change(app);
    let changed = || {
        refused(CapabilityReason::new(
            "changed_meanwhile",
            format!("{}/{}", object.kind, object.name),
            "it changed while the way out was taken",
            "look again",
        ))
    };
    match way {
        WayOut::Wait => return Ok(None),
        WayOut::Forget => unstick::forget(&mut tx, &change, object).await?,
        WayOut::ConfirmPowerOff => {
            let seen = app.links.seen(HostId(object.id));
            host_loss::confirm_power_off(&mut tx, &change, &Key::Id(object.id), seen, HOST_LEASE_SECONDS)
                .await?;
        }
        WayOut::Source | WayOut::Target => {
            let row = seen.migration.as_ref().ok_or_else(changed)?;
            let result =
                if way == WayOut::Target { MigrationResult::Completed } else { MigrationResult::Failed };
            let message = format!("{} said who owns it; it starts from its disk there", change.actor.name);
            let outcome = MigrationOutcome { result, message, reason: None, from_disk: true, progress: None };
            let id = row.migration.id;
            let settlement = Settlement { id, begun: row.begun_at.is_some(), outcome, now: change.now };
            if !unstick::settle(&mut tx, &change, object, &settlement).await? {
                return Err(changed());
            }
        }
        WayOut::Cancel | WayOut::Redeploy | WayOut::Delete => {
            drop(tx);
            return in_project(app, &change, object, seen, way).await;
        }
    }
    tx.commit().await?;
    Ok(None)
}

/// What is an ordinary verb of a project's object.
async fn in_project(
    app: &App,
    change: &basalt_store::Change,
    object: &Object,
    seen: &Look,
    way: WayOut,
) -> Result<Option<Task>, Error> {
    let (Some(tenant), Some(project)) = (object.tenant_id, object.project_id) else { return Ok(None) };
    let key = Key::Id(object.id);
    let mut tx = app.store.tenant(tenant).await?;
    let task = match (way, object.kind.as_str()) {
        (WayOut::Cancel, _) => match &seen.task {
            Some(task) => Some(tasks::cancel(&mut tx, change, task.id).await?),
            None => None,
        },
        (WayOut::Redeploy, _) => Some(vms::redeploy(&mut tx, change, project, &key, None).await?.task),
        (_, "vm") => Some(vms::delete(&mut tx, change, project, &key, None).await?.task),
        (_, _) => Some(volumes::delete(&mut tx, change, project, &key, None).await?.task),
    };
    tx.commit().await?;
    Ok(task)
}
