//! What users send and receive: bodies of `/v1`, pages, problems and watch events.

mod adoption;
mod apply;
mod deployments;
mod identity;
mod problem;
mod registry;
mod resources;
mod sim;
mod unstick;
mod watch;

pub use adoption::*;
pub use apply::*;
pub use deployments::*;
pub use identity::*;
pub use problem::Problem;
pub use registry::*;
pub use resources::*;
pub use sim::*;
pub use unstick::*;
pub use watch::{WatchEvent, WatchKind};

use basalt_model::{Labels, Name, tasks::Task};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body that declares a new object. Anything else in the body is refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Create<S> {
    /// Unique among its kind in its project.
    pub name: Name,
    /// What people attach.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted.
    pub spec: S,
}

/// The body that changes an object's intent, as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Update<S> {
    /// Replaces the labels; left out, they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Replaces the spec.
    pub spec: S,
}

/// One page of a list, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Give this as `cursor` to read on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The answer to an accepted intent (202): it is durable, and this task ends when it is real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accepted<T> {
    /// The object as declared.
    pub object: T,
    /// Follow it at `/v1/tasks/{id}`; absent for a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}
