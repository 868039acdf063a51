//! What would happen if: asked about the cluster as it is, or about one that is only described. Nothing is written.

use crate::{
    App, Error,
    body::Json,
    explain,
    query::{NoParams, Query},
};
use axum::{Json as Answer, extract::State};
use basalt_model::{FieldError, HostId, Name};
use basalt_plan::{
    placement::HostView,
    what_if::{self, World},
};
use basalt_wire::rest::{SimAnswer, SimEvent, SimEventKind, SimQuestion};

/// Most events of a question.
const MAX_EVENTS: usize = 64;
/// Most hosts and VMs of an inventory.
const MAX_HOSTS: usize = 2000;
const MAX_VMS: usize = 100_000;

/// Says what would happen to VMs, hosts and networks if hosts were lost, cut off or drained: by the same decisions as in
/// earnest, over the cluster as it is now or over an inventory. Nothing is changed.
#[utoipa::path(post, path = "/v1/sim", tag = "operation", request_body = SimQuestion,
    responses((status = 200, body = SimAnswer), crate::openapi::Problems))]
pub async fn ask_sim(
    State(app): State<App>,
    _: Query<NoParams>,
    Json { value: question, .. }: Json<SimQuestion>,
) -> Result<Answer<SimAnswer>, Error> {
    let world = match &question.inventory {
        Some(inventory) => {
            bounded("inventory.hosts", inventory.hosts.len(), MAX_HOSTS)?;
            bounded("inventory.vms", inventory.vms.len(), MAX_VMS)?;
            what_if::described(inventory).map_err(|e| Error::Invalid(vec![e]))?
        }
        None => app.hub.read(|rows| {
            let hosts = rows.placement_hosts(|h| explain::seen(&app, h), app.clock.now());
            World::new(hosts, rows.guests(), rows.placed_vms())
        }),
    };
    bounded("events", question.events.len(), MAX_EVENTS)?;
    let events = question.events.iter().enumerate().map(|(n, e)| resolve(n, e, &world.hosts));
    let events = events.collect::<Result<Vec<_>, _>>().map_err(|e| Error::Invalid(vec![e]))?;
    Ok(Answer(what_if::play(world, &events)))
}

fn bounded(field: &str, count: usize, most: usize) -> Result<(), Error> {
    if count <= most {
        return Ok(());
    }
    let reason = format!("{count} are more than {most}");
    Err(Error::Invalid(vec![FieldError::new(field, "too_many", reason, format!("give at most {most}"))]))
}

/// The hosts that an event means.
fn resolve(
    n: usize,
    event: &SimEvent,
    hosts: &[HostView],
) -> Result<(SimEventKind, Vec<HostId>), FieldError> {
    let mut ids = Vec::new();
    for name in &event.hosts {
        let found = hosts.iter().find(|h| h.name == *name).ok_or_else(|| unknown(n, name))?;
        ids.push(found.id);
    }
    if !event.labels.0.is_empty() {
        let carries = |h: &&HostView| event.labels.0.iter().all(|(k, v)| h.labels.get(k) == Some(v.as_str()));
        ids.extend(hosts.iter().filter(carries).map(|h| h.id));
    }
    ids.sort();
    ids.dedup();
    let wrong = match (event.kind, ids.len()) {
        (SimEventKind::Cut, 2) => None,
        (SimEventKind::Cut, count) => Some(format!("a link is between two hosts, and {count} are named")),
        (_, 0) => Some("no host is named, and none carries the labels".to_owned()),
        _ => None,
    };
    match wrong {
        None => Ok((event.kind, ids)),
        Some(reason) => Err(FieldError::new(
            format!("events.{n}.hosts"),
            "wrong_number",
            reason,
            "name hosts that exist, or labels that some carry",
        )),
    }
}

fn unknown(n: usize, name: &Name) -> FieldError {
    let remedy = "name hosts of the cluster or of the inventory";
    FieldError::new(format!("events.{n}.hosts"), "not_found", format!("there is no host {name}"), remedy)
}
