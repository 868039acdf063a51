//! Changing a VM's intent: every change locks the row, checks the caller's generation, moves the generation
//! and records the task that ends when the change is real.

use crate::{
    Accepted, Change, Error, Key, Result, TenantTx, Update,
    audit_events::{self, Entry},
    change, migrations, placement_rules,
    quotas::{self, Delta},
    routers, row,
    security_groups::{self, User},
    tasks,
    vms::{Vm, columns},
};
use basalt_model::{
    CapabilityReason, Generation, Name, ProjectId, TenantId,
    tasks::{Task, TaskKind},
    vms::{NicSpec, Operation, OperationVerb, Power, VmSpec},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};
use std::collections::BTreeSet;

/// The verbs that change the desired power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerVerb {
    /// To running.
    Start,
    /// To stopped.
    Stop,
    /// To paused.
    Pause,
    /// To running, after a pause.
    Resume,
}

impl PowerVerb {
    fn power(self) -> Power {
        match self {
            Self::Start | Self::Resume => Power::Running,
            Self::Stop => Power::Stopped,
            Self::Pause => Power::Paused,
        }
    }

    pub(crate) fn kind(self) -> (TaskKind, &'static str) {
        match self {
            Self::Start => (TaskKind::VmStart, "vm.start"),
            Self::Stop => (TaskKind::VmStop, "vm.stop"),
            Self::Pause => (TaskKind::VmPause, "vm.pause"),
            Self::Resume => (TaskKind::VmResume, "vm.resume"),
        }
    }
}

/// Locks a VM of a project for a change that was meant for a generation.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Vm> {
    let vm: Vm =
        row::keyed(conn, row::keyed_select!("vms", " FOR NO KEY UPDATE", columns!()), project, key, "vm")
            .await?;
    change::expect(expected, vm.metadata.generation)?;
    Ok(vm)
}

/// Refuses a VM that is going.
pub(crate) fn alive(vm: &Vm) -> Result<()> {
    match vm.metadata.deletion_requested_at {
        None => Ok(()),
        Some(_) => Err(Error::Deleting { kind: "vm", name: vm.metadata.name.to_string() }),
    }
}

/// Writes a changed VM back with the next generation.
async fn save(conn: &mut PgConnection, change: &Change, vm: &Vm) -> Result<Vm> {
    let vm = sqlx::query_as(concat!(
        "UPDATE vms x SET spec = $2, labels = $3, incarnation = $4, operation = $5, deletion_requested_at = $6,
            updated_at = $7, placement_rules = $8, nics = $9, generation = generation + 1 WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(vm.id())
    .bind(Json(&vm.spec))
    .bind(Json(&vm.metadata.labels))
    .bind(vm.incarnation)
    .bind(vm.operation.as_ref().map(Json))
    .bind(vm.metadata.deletion_requested_at)
    .bind(change.now)
    .bind(placement_rules::column(&vm.spec.placement))
    .bind(Json(&vm.nics))
    .fetch_one(conn)
    .await?;
    Ok(vm)
}

fn task(change: &Change, vm: &Vm, kind: TaskKind, generation: Generation) -> Result<Task> {
    let (Some(tenant), Some(project)) = (vm.metadata.tenant_id, vm.metadata.project_id) else {
        return Err(Key::Id(vm.metadata.id).missing("project"));
    };
    Ok(tasks::new(change, tenant, project, kind, vm.subject(), generation))
}

fn next(vm: &Vm) -> Generation {
    Generation(vm.metadata.generation.0 + 1)
}

/// Replaces a VM's spec. Disks and interfaces stay as they were declared; a change of CPUs or memory moves
/// the claims on quota and host. What changes nothing moves no generation.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<VmSpec>,
) -> Result<Accepted<Vm>> {
    let mut vm = lock(tx.conn(), project, key, update.expected).await?;
    alive(&vm)?;
    migrations::refuse_while_moving(tx.conn(), vm.id(), &vm.metadata.name).await?;
    let wanted = &update.spec;
    for (field, same) in
        [("spec.disks", vm.spec.disks == wanted.disks), ("spec.nics", same_nics(&vm.spec, wanted))]
    {
        if !same {
            let remedy = "declare a new VM; attach the old one's data as a volume".to_string();
            return Err(Error::Immutable { field: field.into(), remedy });
        }
    }
    let labels = update.labels.clone().unwrap_or_else(|| vm.metadata.labels.clone());
    if vm.spec == *wanted && vm.metadata.labels == labels {
        let task = tasks::completed(task(change, &vm, TaskKind::VmUpdate, vm.metadata.generation)?);
        tasks::record(tx.conn(), change, "vm.update", &task, None).await?;
        return Ok(Accepted { object: vm, task });
    }
    if wanted.ha.restarts() && !vm.spec.ha.restarts() {
        refuse_local_storage(tx, &vm).await?;
    }
    resize(tx, project, &vm, wanted).await?;
    regroup(tx, project, &mut vm, wanted).await?;
    let before = json!({ "spec": vm.spec, "labels": vm.metadata.labels });
    vm.spec = wanted.clone();
    vm.metadata.labels = labels;
    let task = task(change, &vm, TaskKind::VmUpdate, next(&vm))?;
    let vm = save(tx.conn(), change, &vm).await?;
    tasks::record(tx.conn(), change, "vm.update", &task, Some(before)).await?;
    Ok(Accepted { object: vm, task })
}

/// A VM whose volumes are on its host alone is lost with it: no policy helps.
async fn refuse_local_storage(tx: &mut TenantTx, vm: &Vm) -> Result<()> {
    let conn = tx.step_out().await?;
    let local: Vec<String> = sqlx::query_scalar(
        "SELECT v.name || ' in pool ' || v.pool || ' of host ' || h.name
         FROM volumes v JOIN hosts h ON h.id = v.host_id JOIN host_facts f ON f.host_id = v.host_id
         WHERE v.vm_id = $1 AND NOT EXISTS (SELECT FROM jsonb_array_elements(f.facts -> 'pools') p
            WHERE p ->> 'name' = v.pool AND p ->> 'shared_id' IS NOT NULL)
         ORDER BY v.name",
    )
    .bind(vm.id())
    .fetch_all(&mut *conn)
    .await?;
    tx.back_to_tenant().await?;
    if local.is_empty() {
        return Ok(());
    }
    let name = &vm.metadata.name;
    let reason = CapabilityReason::new(
        "ha_local_storage",
        format!("vm/{name}"),
        "spec.ha.policy is to be restart, and some of its volumes are on its host alone: if that is lost, so are they",
        "declare a VM whose disks are in pools of kind shared_directory, or leave spec.ha.policy at none",
    );
    Err(Error::Refused(Box::new(reason.with_evidence(local.join(", ")))))
}

/// Whether interfaces are the same but for their security groups.
fn same_nics(old: &VmSpec, new: &VmSpec) -> bool {
    let bare = |spec: &VmSpec| -> Vec<NicSpec> {
        spec.nics.iter().map(|n| NicSpec { security_groups: Vec::new(), ..n.clone() }).collect()
    };
    bare(old) == bare(new)
}

/// Gives a VM's interfaces the groups that the spec names.
async fn regroup(tx: &mut TenantTx, project: ProjectId, vm: &mut Vm, wanted: &VmSpec) -> Result<()> {
    let named = security_groups::given_by_vm(wanted);
    let found = security_groups::resolve(tx.conn(), project, &named).await?;
    for (i, nic) in vm.nics.iter_mut().enumerate() {
        nic.security_groups = security_groups::of_nic(wanted, i, &found);
    }
    let names = |spec: &VmSpec| -> BTreeSet<Name> {
        security_groups::given_by_vm(spec).into_iter().map(|(name, _)| name.clone()).collect()
    };
    if names(&vm.spec) != names(wanted) {
        let used = found.into_values().collect();
        security_groups::replace_uses(tx, project, User::Vm(vm.id()), &used).await?;
    }
    Ok(())
}

async fn resize(tx: &mut TenantTx, project: ProjectId, vm: &Vm, wanted: &VmSpec) -> Result<()> {
    let (old, new) = (vm.spec.demand(0), wanted.demand(0));
    let delta = Delta {
        vms: 0,
        cpus: i64::from(new.cpus) - i64::from(old.cpus),
        memory_bytes: row::bigint(new.memory_bytes) - row::bigint(old.memory_bytes),
        storage_bytes: 0,
    };
    if delta == Delta::default() {
        return Ok(());
    }
    quotas::claim(tx.conn(), project, delta).await?;
    let conn = tx.step_out().await?;
    let placed = sqlx::query("SELECT FROM placements WHERE vm_id = $1 AND host_id IS NOT NULL FOR UPDATE")
        .bind(vm.id())
        .execute(&mut *conn)
        .await?
        .rows_affected();
    if placed == 1 {
        let moved = sqlx::query(
            "WITH host AS (
                UPDATE host_claims h SET claimed_cpus = h.claimed_cpus + $2,
                    claimed_memory_bytes = h.claimed_memory_bytes + $3
                FROM placements p WHERE p.vm_id = $1 AND h.host_id = p.host_id
                    AND ($2 <= 0 OR h.claimed_cpus + $2 <= h.max_cpus)
                    AND ($3 <= 0 OR h.claimed_memory_bytes + $3 <= h.max_memory_bytes)
                RETURNING h.host_id)
             UPDATE placements SET claimed_cpus = claimed_cpus + $2, claimed_memory_bytes = claimed_memory_bytes + $3
             WHERE vm_id = $1 AND EXISTS (SELECT FROM host)",
        )
        .bind(vm.id())
        .bind(delta.cpus)
        .bind(delta.memory_bytes)
        .execute(&mut *conn)
        .await?
        .rows_affected();
        if moved == 0 {
            return Err(Error::HostFull(CapabilityReason::new(
                "host_full",
                format!("vm/{}", vm.metadata.name),
                "the host it is placed on has no room for the larger size",
                "ask for less, or redeclare the VM so that it is placed anew",
            )));
        }
    }
    tx.back_to_tenant().await
}

/// Changes the desired power. The task ends when it is observed.
pub async fn set_power(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
    verb: PowerVerb,
) -> Result<Accepted<Vm>> {
    let conn = tx.conn();
    let mut vm = lock(conn, project, key, expected).await?;
    alive(&vm)?;
    let (kind, action) = verb.kind();
    let before = vm.spec.power;
    let mut task = task(change, &vm, kind, next(&vm))?;
    if before == verb.power() {
        // Nothing new is wanted: the task waits for what was wanted before.
        task.generation = vm.metadata.generation;
        tasks::record(conn, change, action, &task, None).await?;
        return Ok(Accepted { object: vm, task });
    }
    vm.spec.power = verb.power();
    let vm = save(conn, change, &vm).await?;
    tasks::record(conn, change, action, &task, Some(json!({ "power": before }))).await?;
    Ok(Accepted { object: vm, task })
}

/// Asks for a one-shot verb, stamped with its task's id so that it is carried out at most once.
pub async fn operate(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
    verb: OperationVerb,
) -> Result<Accepted<Vm>> {
    let conn = tx.conn();
    let mut vm = lock(conn, project, key, expected).await?;
    alive(&vm)?;
    if vm.spec.power != Power::Running {
        return Err(Error::NotRunning { name: vm.metadata.name, verb });
    }
    migrations::refuse_while_moving(conn, vm.id(), &vm.metadata.name).await?;
    let (kind, action) = match verb {
        OperationVerb::Reboot => (TaskKind::VmReboot, "vm.reboot"),
        OperationVerb::Reset => (TaskKind::VmReset, "vm.reset"),
    };
    let task = task(change, &vm, kind, next(&vm))?;
    vm.operation = Some(Operation { id: task.id, verb });
    let vm = save(conn, change, &vm).await?;
    tasks::record(conn, change, action, &task, None).await?;
    Ok(Accepted { object: vm, task })
}

/// Destroys a VM and its own volumes and makes them anew, with the same identity and addresses.
pub async fn redeploy(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Vm>> {
    let conn = tx.conn();
    let mut vm = lock(conn, project, key, expected).await?;
    alive(&vm)?;
    if vm.spec.protected {
        return Err(Error::Protected { name: vm.metadata.name });
    }
    migrations::refuse_while_moving(conn, vm.id(), &vm.metadata.name).await?;
    let task = task(change, &vm, TaskKind::VmRedeploy, next(&vm))?;
    vm.incarnation += 1;
    vm.operation = None;
    let vm = save(conn, change, &vm).await?;
    sqlx::query(
        "UPDATE volumes SET incarnation = incarnation + 1, generation = generation + 1, updated_at = $2
         WHERE vm_id = $1 AND owned",
    )
    .bind(vm.id())
    .bind(change.now)
    .execute(&mut *conn)
    .await?;
    tasks::record(conn, change, "vm.redeploy", &task, None).await?;
    Ok(Accepted { object: vm, task })
}

/// Asks for a VM's deletion; asking again answers the task of the first time.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Vm>> {
    let conn = tx.conn();
    let vm = lock(conn, project, key, expected).await?;
    if let Some(task) = tasks::deletion(conn, "vm", &vm.metadata, TaskKind::VmDelete).await? {
        return Ok(Accepted { task, object: vm });
    }
    if vm.spec.protected {
        return Err(Error::Protected { name: vm.metadata.name });
    }
    let by = routers::users_of_vm(conn, vm.id()).await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "vm", name: vm.metadata.name.to_string(), by });
    }
    request_deletion(conn, change, vm).await
}

async fn request_deletion(conn: &mut PgConnection, change: &Change, mut vm: Vm) -> Result<Accepted<Vm>> {
    let task = task(change, &vm, TaskKind::VmDelete, next(&vm))?;
    vm.metadata.deletion_requested_at = Some(change.now);
    vm.operation = None;
    let vm = save(conn, change, &vm).await?;
    sqlx::query(
        "UPDATE volumes SET deletion_requested_at = $2, generation = generation + 1, updated_at = $2
         WHERE vm_id = $1 AND owned AND deletion_requested_at IS NULL",
    )
    .bind(vm.id())
    .bind(change.now)
    .execute(&mut *conn)
    .await?;
    tasks::record(conn, change, "vm.delete", &task, None).await?;
    Ok(Accepted { object: vm, task })
}

/// Turns the intent of a cancelled task back, unless something newer changed the VM.
pub(crate) async fn turn_back(
    tx: &mut TenantTx,
    change: &Change,
    task: &Task,
    undo: Option<Value>,
) -> Result<()> {
    let Some(project) = task.project_id.filter(|_| task.subject.kind == "vm") else { return Ok(()) };
    let conn = tx.conn();
    let mut vm = match lock(conn, project, &Key::Id(task.subject.id), None).await {
        Err(Error::NotFound { .. }) => return Ok(()),
        other => other?,
    };
    if vm.metadata.deletion_requested_at.is_some() {
        return Ok(());
    }
    match task.kind {
        TaskKind::VmCreate if !vm.spec.protected => {
            request_deletion(conn, change, vm).await?;
            return Ok(());
        }
        TaskKind::VmReboot | TaskKind::VmReset if vm.operation.as_ref().is_some_and(|o| o.id == task.id) => {
            vm.operation = None;
        }
        TaskKind::VmUpdate if vm.metadata.generation == task.generation => {
            let Some(mut undo) = undo else { return Ok(()) };
            let read = |e| Error::from(row::unreadable("undo", e));
            let spec: VmSpec = serde_json::from_value(undo["spec"].take()).map_err(read)?;
            let labels = serde_json::from_value(undo["labels"].take()).map_err(read)?;
            // Claims move back too, so this is a change like any other, with a task of its own.
            let back = Update { expected: None, labels: Some(labels), spec };
            update(tx, change, project, &Key::Id(task.subject.id), &back).await?;
            return Ok(());
        }
        TaskKind::VmStart | TaskKind::VmStop | TaskKind::VmPause | TaskKind::VmResume
            if vm.metadata.generation == task.generation =>
        {
            let before = undo.and_then(|u| serde_json::from_value::<Power>(u.get("power")?.clone()).ok());
            let Some(power) = before else { return Ok(()) };
            vm.spec.power = power;
        }
        _ => return Ok(()),
    }
    let conn = tx.conn();
    let vm = save(conn, change, &vm).await?;
    let m = &vm.metadata;
    let tenant: Option<TenantId> = m.tenant_id;
    let entry = Entry::new("vm.turn_back", tenant, m.project_id, "vm", m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await
}
