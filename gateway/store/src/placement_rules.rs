//! Hard rules about other VMs, kept by the database: whatever two deciders saw, no rule is broken by what both wrote.
//!
//! The rules of a VM stand in a column of its row that is null for most. What was placed is checked after the claim on
//! the host, which others wait for; each statement of the function sees what was committed before it began.

use crate::Result;
use basalt_model::{CapabilityReason, Labels, VmId, vms::PlacementRules};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

/// The hard rules of a VM as `vms.placement_rules` has them.
#[derive(Serialize)]
pub(crate) struct Rules<'a> {
    affinity: Vec<&'a Labels>,
    anti_affinity: Vec<&'a Labels>,
}

/// The column's value; null without hard rules.
pub(crate) fn column(rules: &PlacementRules) -> Option<Json<Rules<'_>>> {
    let (affinity, anti_affinity): (Vec<_>, Vec<_>) =
        (rules.required_affinity().collect(), rules.required_anti_affinity().collect());
    (!affinity.is_empty() || !anti_affinity.is_empty()).then_some(Json(Rules { affinity, anti_affinity }))
}

/// The rule that a VM that was just placed breaks, if it breaks one.
pub(crate) async fn broken(
    conn: &mut PgConnection,
    vm: VmId,
    host: &str,
) -> Result<Option<CapabilityReason>> {
    let row: Option<(bool, Option<String>)> =
        sqlx::query_as("SELECT apart, beside FROM broken_placement_rules(ARRAY[$1]) LIMIT 1")
            .bind(vm)
            .fetch_optional(conn)
            .await?;
    let remedy = "choose another host, or change the placement rules of the VMs";
    Ok(row.map(|(apart, beside)| {
        let (code, message) = if apart {
            ("anti_affinity", "a VM was placed there meanwhile that must not be beside this one")
        } else {
            ("affinity_unmet", "no VM that this one must be beside is placed there")
        };
        let evidence = beside.map(|vm| format!("vm/{vm} is placed there"));
        CapabilityReason::new(code, format!("host/{host}"), message, remedy)
            .with_evidence(evidence.unwrap_or_default())
    }))
}
