//! The store's refusals as problems: each names the field or the object, the reason and the remedy.

use basalt_model::{CapabilityReason, FieldError, networks::Segment};
use basalt_store::Error;
use basalt_wire::rest::Problem;

/// The problem of a refusal.
pub fn problem(error: &Error) -> Problem {
    object(error)
        .or_else(|| reference(error))
        .or_else(|| state(error))
        .or_else(|| moment(error))
        .unwrap_or_else(|| failure(error))
}

/// About the object itself: it is not there, or another is.
fn object(error: &Error) -> Option<Problem> {
    Some(match error {
        Error::NotFound { kind, name } => {
            Problem::new(404, "not_found", "Not found", format!("There is no {kind} {name:?} here."))
        }
        Error::NameTaken { kind, name } => {
            Problem::new(409, "name_taken", "Name taken", format!("There is a {kind} named {name} already."))
                .with_errors(vec![FieldError::new(
                    "name",
                    "name_taken",
                    format!("{name} is the name of another {kind}"),
                    "choose another name",
                )])
        }
        Error::GenerationMismatch { expected, current } => Problem::new(
            412,
            "generation_mismatch",
            "Changed meanwhile",
            format!("If-Match names generation {}, the object is at {}.", expected.0, current.0),
        )
        .with_errors(vec![FieldError::new(
            "If-Match",
            "generation_mismatch",
            format!("the object is at generation {}", current.0),
            "read it again, apply your change to what you read, and send its ETag",
        )]),
        Error::Invalid(errors) => {
            Problem::new(422, "invalid_body", "Invalid body", "Fields of the body are wrong.")
                .with_errors(errors.clone())
        }
        Error::Parameter(wrong) => Problem::new(
            400,
            "invalid_query",
            "Invalid query",
            format!("{}: {}; {}.", wrong.field, wrong.reason, wrong.remedy),
        )
        .with_errors(vec![wrong.clone()]),
        Error::Immutable { field, remedy } => {
            field_problem("immutable", field, format!("{field} cannot be changed"), remedy.to_string())
        }
        Error::IdempotencyReused { key } => Problem::new(
            422,
            "idempotency_key_reused",
            "Idempotency-Key reused",
            format!("The key {key:?} was used for another request."),
        )
        .with_errors(vec![FieldError::new(
            "Idempotency-Key",
            "idempotency_key_reused",
            "the key belongs to a request with another body",
            "send a new key",
        )]),
        _ => return None,
    })
}

/// About something that the spec names.
fn reference(error: &Error) -> Option<Problem> {
    Some(match error {
        Error::ReferenceNotFound { kind, name, field } => field_problem(
            "not_found",
            field,
            format!("there is no {kind} {name:?} in this project"),
            format!("give the name of an existing {kind}, or create it first"),
        ),
        Error::ProjectElsewhere { project, tenant } => field_problem(
            "project_elsewhere",
            "grant.scope.project_id",
            format!("the project {project} is not of the tenant {tenant}"),
            "name the tenant that the project is of: GET /v1/projects/{project} shows it".into(),
        ),
        Error::ImageNotReady { image, state, field } => field_problem(
            "image_not_ready",
            field,
            format!("the image {image} is {}", format!("{state:?}").to_lowercase()),
            "wait until the image is ready: upload its bytes and follow its task".into(),
        ),
        Error::ImageWrongFormat { image, format, field } => field_problem(
            "image_wrong_format",
            field,
            format!("the image {image} has the format {format}"),
            "use an iso image as a disc, and a qcow2 or raw image under a disk".into(),
        ),
        Error::SizeTooSmall { field, given, minimum } => field_problem(
            "size_too_small",
            field,
            format!("{given} bytes are less than the {minimum} bytes of the image"),
            format!("give at least {minimum} bytes, or leave the size out"),
        ),
        Error::AddressTaken { address, network, field } => field_problem(
            "address_taken",
            field,
            format!("{address} belongs to another port of {network}"),
            "leave the address out, or choose a free one".into(),
        ),
        Error::AddressOutside { address, network, field } => field_problem(
            "address_outside",
            field,
            format!("{address} is no guest address of {network}"),
            "choose an address inside the network that is not its router's, DHCP server's or broadcast address".into(),
        ),
        Error::SubnetExhausted { network, field } => field_problem(
            "subnet_exhausted",
            field,
            format!("the network {network} has no free address"),
            "use another network, or delete VMs of this one".into(),
        ),
        Error::WireTaken { segment } => wire_taken(segment),
        Error::CidrOverlap { field, cidr, with } => field_problem(
            "cidr_overlap",
            field,
            format!("{cidr} overlaps with the network {with}"),
            "choose a range that no network of the project uses".into(),
        ),
        _ => return None,
    })
}

/// Two networks on one wire would be one network.
fn wire_taken(segment: &Segment) -> Problem {
    match segment {
        Segment::Vlan { vlan_id, uplink } => field_problem(
            "vlan_in_use",
            "spec.segment.vlan_id",
            format!("VLAN {vlan_id} of {uplink} belongs to another network"),
            "choose a VLAN that no network of the system uses, or attach VMs to that network".into(),
        ),
        _ => field_problem(
            "uplink_in_use",
            "spec.segment.uplink",
            format!(
                "the untagged frames of {} belong to another network",
                segment.uplink().unwrap_or_default()
            ),
            "use a VLAN of the uplink, another uplink, or attach VMs to that network".into(),
        ),
    }
}

/// About the state that things are in.
fn state(error: &Error) -> Option<Problem> {
    Some(match error {
        Error::QuotaExceeded { resource, limit, used, asked } => conflict(
            "quota_exceeded",
            "Quota exceeded",
            CapabilityReason::new(
                "quota_exceeded",
                format!("quota/{resource}"),
                format!("the project's quota of {resource} does not suffice"),
                "delete something, ask for less, or let an administrator raise the quota",
            )
            .with_evidence(format!("limit {limit}, used {used}, asked {asked}")),
        ),
        Error::InUse { kind, name, by } => conflict(
            "in_use",
            "In use",
            CapabilityReason::new(
                "in_use",
                format!("{kind}/{name}"),
                format!("{name} is in use"),
                "delete or detach what uses it first",
            )
            .with_evidence(by.join(", ")),
        ),
        Error::Protected { name } => conflict(
            "protected",
            "Protected",
            CapabilityReason::new(
                "protected",
                "spec.protected",
                format!("{name} is protected"),
                "set spec.protected to false first",
            ),
        ),
        Error::Deleting { kind, name } => conflict(
            "deleting",
            "Being deleted",
            CapabilityReason::new(
                "deleting",
                format!("{kind}/{name}"),
                format!("{name} is being deleted"),
                "wait until it is gone, then create it anew",
            ),
        ),
        Error::HostFull(reason) => conflict("host_full", "The host cannot take it", reason.clone()),
        Error::Refused(reason) => conflict("refused", "Not possible now", (**reason).clone()),
        _ => return None,
    })
}

/// About a moment that has not come, or has passed.
fn moment(error: &Error) -> Option<Problem> {
    Some(match error {
        Error::NotRunning { name, verb } => conflict(
            "not_running",
            "Not meant to run",
            CapabilityReason::new(
                "not_running",
                format!("vm/{name}"),
                format!("{} needs a VM that is meant to run", format!("{verb:?}").to_lowercase()),
                "start it first",
            ),
        ),
        Error::TaskEnded { state } => conflict(
            "task_ended",
            "Task has ended",
            CapabilityReason::new(
                "task_ended",
                "task",
                format!("the task is {} already", state.as_str()),
                "start a new request",
            ),
        ),
        Error::TokenInvalid => Problem::new(
            401,
            "token_invalid",
            "Token invalid",
            "The token was used already, has expired, or was never given; ask for a new one.",
        ),
        _ => return None,
    })
}

/// What is no fault of the caller.
fn failure(error: &Error) -> Problem {
    match error {
        Error::Unavailable(_) => Problem::new(
            503,
            "unavailable",
            "Not available",
            "The database does not answer. Try again after a moment; a write with an Idempotency-Key is carried out once, however often it is sent.",
        ),
        Error::Conflict(_) => Problem::new(
            503,
            "busy",
            "Busy",
            "Another request changed the same rows; nothing was changed. Try again.",
        ),
        _ => Problem::new(
            500,
            "internal",
            "Internal error",
            "Something went wrong inside; the request id names it in the gateway's log.",
        ),
    }
}

fn field_problem(code: &str, field: &str, reason: String, remedy: String) -> Problem {
    Problem::new(422, code, "Invalid body", format!("{field}: {reason}; {remedy}."))
        .with_errors(vec![FieldError::new(field, code, reason, remedy)])
}

fn conflict(code: &str, title: &str, reason: CapabilityReason) -> Problem {
    Problem::new(409, code, title, format!("{reason}.")).with_reasons(vec![reason])
}
