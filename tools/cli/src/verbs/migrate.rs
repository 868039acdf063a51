//! Moving VMs to other hosts.

use super::{Session, bare, change::Taken};
use crate::{
    Failure,
    args::{Migrate, Sending},
    failure::Tally,
    kinds::Kind,
};
use serde_json::{Map, Value, json};

impl Session {
    pub(super) async fn migrate(&self, what: &Migrate) -> Result<(), Failure> {
        let kind = Kind::find("vm")?;
        let (query, done) = if what.dry_run { ("?dry_run=true", "can migrate") } else { ("", "migrated") };
        let body = body(what);
        let mut tally = Tally::new(what.vms.len());
        let mut taken = Vec::new();
        for vm in what.vms.iter().map(|vm| bare("vm", vm)) {
            let path = format!("{}/migrate{query}", kind.object(&self.project, vm));
            let asked = match self.client.post::<_, Value>(&path, &body).await {
                // What comes back is the migration; what people moved is the VM.
                Ok(answer) => Taken::read(Kind::find("migration")?, vm, done, answer)
                    .map(|taken| taken.labelled(format!("vm/{vm}"))),
                Err(e) => Err(e),
            };
            taken.extend(tally.keep(&format!("vm/{vm}"), asked));
        }
        self.conclude_all(taken, &mut tally).await?;
        tally.end()
    }
}

/// How memory is sent, as a body says it.
pub(super) fn sending(how: &Sending) -> Map<String, Value> {
    fields([
        ("max_pause_milliseconds", how.max_pause.map(|ms| json!(ms))),
        ("on_stall", how.on_stall.map(|s| json!(s.word()))),
        ("max_bytes_per_second", how.max_rate.map(|rate| json!(rate))),
    ])
}

/// Those fields that something was said of.
pub(super) fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn body(what: &Migrate) -> Value {
    let mut body = sending(&what.sending);
    let mode = match (what.live, what.cold) {
        (true, _) => Some("live"),
        (_, true) => Some("cold"),
        _ => None,
    };
    body.extend(fields([
        ("host", what.host.as_ref().map(|h| json!(h))),
        ("mode", mode.map(|m| json!(m))),
        ("timeout_seconds", what.give_up_after.map(|s| json!(s))),
    ]));
    Value::Object(body)
}
