//! V1, V3: "pending" never stands without a reason that names a remedy, and ends when the cause goes.

use anyhow::{Context, Result, ensure};
use basalt_model::{ConditionStatus, tasks::TaskState};
use basalt_tests::{House, api::vm_id, wait};
use basalt_wire::rest::{Phase, PlacementExplanation, Vm};
use reqwest::StatusCode;
use serde_json::json;

/// Waits until a VM shows a condition that does not hold, and gives its words.
async fn reason(house: &House, name: &str) -> Result<String> {
    wait::until("the VM says why it is pending", || async {
        let vm: Vm = house.api.vm(name).await?;
        ensure!(matches!(vm.phase, Phase::Pending | Phase::Blocked), "{:?}", vm.phase);
        let why = vm.conditions.iter().find(|c| c.status == ConditionStatus::False && !c.message.is_empty());
        Ok(why.map(|c| format!("{}: {}", c.reason, c.message)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_pending_without_a_host_says_so_and_ends_when_one_comes() -> Result<()> {
    let mut house = House::with_hosts(0).await?;
    let (vm, task) = house.api.create_vm("web", json!({})).await?;
    let why = reason(&house, "web").await?;
    ensure!(why.to_lowercase().contains("host"), "{why}");
    let waiting = house.api.get::<basalt_model::tasks::Task>(&format!("/v1/tasks/{}", task.id)).await?;
    ensure!(!waiting.state.is_terminal(), "{waiting:?}");
    ensure!(!waiting.stage.is_empty(), "a task that waits says for what: {waiting:?}");
    let machine = house.add_host("h1").await?;
    house.api.completed(&task).await?;
    ensure!(machine.runs(vm_id(&vm)));
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_pl2_pending_on_full_hosts_names_every_host_and_ends_when_room_appears() -> Result<()> {
    let house = House::with_hosts(2).await?;
    // A simulated host has 1 TiB: one VM of 700 GiB fits each, a third fits none.
    let big = json!({"memory_bytes": 700u64 << 30});
    for name in ["a", "b"] {
        let (_, task) = house.api.create_vm(name, big.clone()).await?;
        house.api.completed(&task).await?;
    }
    let (_, task) = house.api.create_vm("c", big.clone()).await?;
    let why = reason(&house, "c").await?;
    ensure!(why.contains("memory") || why.contains("host"), "{why}");
    let explained: PlacementExplanation = house.api.get(&house.api.path("vms/c/explain")).await?;
    ensure!(explained.host_id.is_none() && explained.candidates.len() == 2, "{explained:?}");
    for candidate in &explained.candidates {
        let rejection = candidate.rejections.first().with_context(|| format!("{candidate:?}"))?;
        ensure!(rejection.code.contains("memory") && !rejection.remedy.is_empty(), "{rejection:?}");
    }
    // The same question without a VM gets the same answer, and leaves nothing behind.
    let asked: PlacementExplanation =
        house.api.post(&house.api.path("placement/explain"), &basalt_tests::api::vm("x", big)).await?;
    ensure!(asked.host_id.is_none() && asked.candidates.len() == 2, "{asked:?}");

    let delete = house.api.delete_vm("a").await?;
    house.api.completed(&delete).await?;
    house.api.completed(&task).await?;
    ensure!(house.api.vm("c").await?.phase == Phase::Running);
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_an_image_that_is_not_ready_is_refused_with_its_state_and_accepted_afterwards() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let image = house.declare_image("late").await?;
    let disks = json!({"disks": [{"name": "root", "source": {"kind": "image", "image": "late"}}]});
    let refused =
        house.api.try_post(&house.api.path("vms"), &basalt_tests::api::vm("web", disks.clone())).await?;
    ensure!(refused.status.is_client_error(), "{refused:?}");
    let problem = refused.problem()?;
    let said = serde_json::to_string(&problem)?;
    ensure!(said.contains("late") && said.contains("spec.disks[0]"), "{said}");
    ensure!(house.api.find::<Vm>(&house.api.path("vms/web")).await?.is_none(), "something half-made stayed");
    house.make_ready(image).await?;
    let (_, task) = house.api.create_vm("web", disks).await?;
    house.api.completed(&task).await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_what_no_host_could_ever_take_is_refused_at_the_door() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let huge = basalt_tests::api::vm("huge", json!({"memory_bytes": 3u64 << 40}));
    let dry = format!("{}?dry_run=true", house.api.path("vms"));
    basalt_tests::wait::until("the door has heard of the host", || async {
        let tried = house.api.try_post(&dry, &huge).await?;
        Ok((tried.status != StatusCode::OK).then_some(()))
    })
    .await?;
    let refused = house.api.try_post(&house.api.path("vms"), &huge).await?;
    ensure!(refused.status == StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    let problem = refused.problem()?;
    ensure!(
        !problem.reasons.is_empty() && problem.reasons.iter().all(|r| !r.remedy.is_empty()),
        "{problem:?}"
    );
    house.nothing_left().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_a_create_that_waits_can_be_taken_back() -> Result<()> {
    let house = House::with_hosts(0).await?;
    let (_, task) = house.api.create_vm("web", json!({})).await?;
    reason(&house, "web").await?;
    house.api.call::<serde_json::Value>(&format!("/v1/tasks/{}/cancel", task.id)).await?;
    ensure!(house.api.ended(task.id).await?.state == TaskState::Cancelled);
    house.nothing_left().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl4_concurrent_creates_never_overfill_a_host() -> Result<()> {
    let house = House::with_hosts(2).await?;
    // Five of 200 GiB fit a host of 1 TiB: of sixteen, ten run and six wait.
    let creates = (0..16).map(|n| {
        let api = house.api.clone();
        async move { api.create_vm(&format!("web-{n}"), json!({"memory_bytes": 200u64 << 30})).await }
    });
    futures::future::try_join_all(creates).await?;
    wait::until("ten run and six wait", || async {
        let page: basalt_wire::rest::Page<Vm> = house.api.get(&house.api.path("vms")).await?;
        let running = page.items.iter().filter(|v| v.phase == Phase::Running).count();
        let waiting = page.items.iter().filter(|v| v.placement.is_none() && !v.conditions.is_empty()).count();
        ensure!(running <= 10, "{running} run");
        Ok((running == 10 && waiting == 6).then_some(()))
    })
    .await?;
    house.runs_once()?;
    house.sound()
}
