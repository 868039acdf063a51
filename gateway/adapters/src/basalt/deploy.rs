//! Making a VM so, and taking it away.
//!
//! Every step begins with what is there, found by label and not by name, and writes only over what was looked at
//! (`If-Match`). So it does not matter after which step a former attempt died, and one that comes late changes nothing that
//! a newer one wrote. A name is given once in a project, which is what keeps two attempts from making two.

use super::{
    Basalt,
    guest::{self, Wanted},
    reasons::{self, error},
    vm::Vm,
};
use crate::{
    Applied, Discovered, Error, Removed, Result,
    fence::{other_owner, refuse_newer},
    labels,
};
use basalt_model::{
    DeploymentId, Epoch,
    artifacts::Source,
    deployments::{ErrorClass, Owner, Workload},
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use std::time::Duration;

/// How often is looked again when somebody else is changing the same thing.
const ROUNDS: u32 = 8;
/// Between two looks at a VM that goes.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an undeploy waits for the end of the VM; later it is asked again.
const GOING: Duration = Duration::from_secs(5);

/// Why a step ended early.
enum Stop {
    /// Things changed under our hands: look again.
    Again(Error),
    /// It is so.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let changed = ["generation_mismatch", "name_taken", "address_taken"];
        if changed.iter().any(|code| reasons::is(&error, code)) {
            Self::Again(error)
        } else {
            Self::Failed(error)
        }
    }
}

type Step<T> = std::result::Result<T, Stop>;

impl Basalt {
    pub(super) async fn deploy_within(&self, workload: &Workload) -> Result<Applied> {
        if matches!(workload.program.source, Source::Remote { .. }) {
            // It ran here before it was said to run elsewhere.
            return Ok(match self.undeploy_within(&workload.owner, workload.epoch).await? {
                Removed::Absent => Applied::Unchanged,
                Removed::Gone | Removed::Going => Applied::Changed,
            });
        }
        let wanted = guest::wanted(workload, &self.place)?;
        rounds(|| self.deploy_once(workload, &wanted).boxed()).await
    }

    pub(super) async fn undeploy_within(&self, owner: &Owner, epoch: Epoch) -> Result<Removed> {
        rounds(|| self.undeploy_once(owner, epoch).boxed()).await
    }

    /// Every VM that carries this owner.
    pub(super) async fn owned(&self, owner: DeploymentId) -> Result<Vec<Vm>> {
        self.calls.vms(&format!("{}={}", labels::DEPLOYMENT, owner.0)).await
    }

    async fn deploy_once(&self, workload: &Workload, wanted: &Wanted) -> Step<Applied> {
        let mine = self.owned(workload.owner.id).await?;
        refuse_newer(mine.iter().filter_map(Vm::epoch), &workload.owner, workload.epoch)?;
        if let [vm] = &*mine
            && !vm.is_going()
            && wanted.is_made_as(vm)
        {
            if vm.text("/power") == "running" && wanted.is_said_by(vm) {
                return Ok(Applied::Unchanged);
            }
            self.calls.update(vm, &wanted.over(vm)).await?;
            return Ok(Applied::Changed);
        }
        if !mine.iter().any(|vm| vm.name == wanted.name) {
            self.refuse_foreign(wanted, &workload.owner).await?;
        }
        let address = mine.iter().find_map(|vm| vm.address_on(&wanted.recipe.network));
        self.replace(wanted, &mine).await?;
        self.calls.create(&wanted.create(&wanted.name, address), false).await?;
        Ok(Applied::Changed)
    }

    /// Takes away what was there, unless a new one would be refused for good.
    async fn replace(&self, wanted: &Wanted, old: &[Vm]) -> Step<()> {
        if old.iter().any(|vm| !vm.is_going()) {
            // Under a name that nothing has. What the old one itself takes of the quota or a host is free afterwards.
            let asked = wanted.create(&trial_name(&wanted.name), None);
            match self.calls.create(&asked, true).await {
                Err(refused) if refused.class != ErrorClass::Capacity => return Err(Stop::Failed(refused)),
                _ => {}
            }
        }
        for vm in old.iter().filter(|vm| !vm.is_going()) {
            self.calls.delete(vm).await?;
        }
        for vm in old {
            if !self.is_gone(vm, self.call_limit / 2).await? {
                let mut going = error(
                    ErrorClass::Transient,
                    "old_vm_going",
                    format!("vm/{}", vm.name),
                    "the VM that it replaces is on its way out and not gone yet",
                    "it is tried again; when it stays so, see why with GET …/vms/{vm}: its host has to be heard of",
                );
                going.retry_after = Some(Duration::from_secs(2));
                return Err(Stop::Failed(going));
            }
        }
        Ok(())
    }

    /// Waits until a VM is gone, or says that it is not.
    async fn is_gone(&self, vm: &Vm, limit: Duration) -> Result<bool> {
        let looking = async {
            while self.calls.vm(&vm.id.to_string()).await?.is_some() {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(true)
        };
        tokio::time::timeout(limit, looking).await.unwrap_or(Ok(false))
    }

    async fn undeploy_once(&self, owner: &Owner, epoch: Epoch) -> Step<Removed> {
        let mine = self.owned(owner.id).await?;
        refuse_newer(mine.iter().filter_map(Vm::epoch), owner, epoch)?;
        if mine.is_empty() {
            return Ok(Removed::Absent);
        }
        for vm in mine.iter().filter(|vm| !vm.is_going()) {
            self.calls.delete(vm).await?;
        }
        for vm in &mine {
            if !self.is_gone(vm, GOING.min(self.call_limit / 2)).await? {
                return Ok(Removed::Going);
            }
        }
        Ok(Removed::Gone)
    }

    async fn refuse_foreign(&self, wanted: &Wanted, owner: &Owner) -> Step<()> {
        let Some(other) = self.calls.vm(&wanted.name).await? else { return Ok(()) };
        let subject = format!("vm/{}", other.name);
        Err(match other.owner() {
            // Made since we looked.
            Some(of) if of == owner.id => Stop::Again(other_owner(&subject, of)),
            Some(of) => Stop::Failed(other_owner(&subject, of)),
            None => Stop::Failed(error(
                ErrorClass::Conflict,
                "other_owner",
                subject,
                "a VM that was not made for a deployment has this name",
                "delete it, or adopt it",
            )),
        })
    }

    pub(super) async fn write_owner_on(&self, found: &Discovered, owner: &Owner, epoch: Epoch) -> Result<()> {
        rounds(|| self.write_owner_once(found, owner, epoch).boxed()).await
    }

    async fn write_owner_once(&self, found: &Discovered, owner: &Owner, epoch: Epoch) -> Step<()> {
        let subject = format!("vm/{}", found.name);
        let id = found.raw.get("id").and_then(Value::as_str).unwrap_or(&found.name);
        let missing = || {
            let remedy = "look at what is discovered now";
            error(ErrorClass::Missing, "vm_missing", &subject, "it is not there any more", remedy)
        };
        let vm = self.calls.vm(id).await?.filter(|vm| !vm.is_going()).ok_or_else(missing)?;
        match vm.owner() {
            Some(of) if of == owner.id => return Ok(refuse_newer(vm.epoch().into_iter(), owner, epoch)?),
            Some(of) => return Err(Stop::Failed(other_owner(&subject, of))),
            None => {}
        }
        let mut all = vm.labels.clone();
        all.extend([
            (labels::DEPLOYMENT.to_owned(), owner.id.0.to_string()),
            (labels::PROJECT.to_owned(), owner.project.to_string()),
            (labels::NAME.to_owned(), owner.name.to_string()),
            (labels::EPOCH.to_owned(), epoch.0.to_string()),
        ]);
        Ok(self.calls.update(&vm, &json!({ "labels": all, "spec": vm.spec })).await?)
    }
}

async fn rounds<'a, T>(once: impl Fn() -> BoxFuture<'a, Step<T>>) -> Result<T> {
    let mut round = 1;
    loop {
        match once().await {
            Ok(done) => return Ok(done),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Again(error)) if round >= ROUNDS => return Err(error),
            Err(Stop::Again(error)) => tracing::debug!(%error, round, "looking again"),
        }
        tokio::time::sleep(PAUSE / 2 * round).await;
        round += 1;
    }
}

/// A name of the same length as the real one that no deployment's VM has: those end in digits of an id.
fn trial_name(name: &str) -> String {
    format!("{}-trial", &name[..name.len().min(57)].trim_end_matches('-'))
}
