//! One open console: both directions, and everything that ends it.
//!
//! One task owns all of it. It ends when the guest's port does, when either side goes away, when nothing was said
//! for long, when the user may no more, and when the gateway stops; whatever is left on the way goes with it.

use super::{Meeting, Target};
use crate::{
    App,
    authentication::{self, Permit},
    rows::{Noun, Object},
};
use axum::body::{Body, BodyDataStream};
use basalt_model::roles::{Role, allows};
use basalt_wire::agent::console::PIECE_BYTES;
use bytes::Bytes;
use chrono::TimeDelta;
use futures::StreamExt;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// How often it is looked whether the console may go on.
const RECHECK: Duration = Duration::from_secs(2);
/// Minutes without a byte in either direction after which a console ends.
pub const IDLE_MINUTES: i64 = 30;

/// Why a console ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The guest's port ended: the VM runs no more.
    Port,
    /// The user's connection ended.
    UserLeft,
    /// The agent's connection broke.
    AgentLeft,
    /// The user's token or role is gone.
    Forbidden,
    /// The VM is gone from the host.
    Moved,
    /// Nothing was said for long.
    Idle,
    /// The gateway stops.
    Drain,
}

/// What a console needs while it is open.
pub struct Session {
    pub app: App,
    pub permit: Permit,
    pub target: Target,
    pub meeting: Meeting,
}

/// When a byte last went by, in milliseconds.
struct Pulse(AtomicI64);

impl Session {
    /// Carries bytes until something ends it. `to_user` closes then; `broken` says before whether it is an end that
    /// the user is to take for a failure.
    pub async fn carry(self, user: Body, to_user: mpsc::Sender<Bytes>, broken: Arc<AtomicBool>) {
        let Self { app, permit, target, meeting } = self;
        let Meeting { output, input: to_agent, place: _place } = meeting;
        let pulse = Pulse(AtomicI64::new(app.clock.now().timestamp_millis()));
        let typed = async {
            match pump(&app, user.into_data_stream(), &to_agent, &pulse).await {
                // Who has nothing more to type may go on reading.
                Ok(()) => std::future::pending().await,
                Err(_) => End::UserLeft,
            }
        };
        let written = async {
            match pump(&app, output.into_data_stream(), &to_user, &pulse).await {
                Ok(()) => End::Port,
                Err(_) => End::AgentLeft,
            }
        };
        let end = tokio::select! {
            biased;
            () = app.drain.begun() => End::Drain,
            end = guard(&app, &permit, &target, &pulse) => end,
            () = to_user.closed() => End::UserLeft,
            end = written => end,
            () = to_agent.closed() => End::AgentLeft,
            end = typed => end,
        };
        tracing::info!(vm = %target.vm_id, host = %target.host_id, user = %permit.principal.name, ?end, "a console ended");
        broken.store(end != End::Port, Ordering::Release);
    }
}

/// Hands pieces on, however long they come. `Err`: the side they come from broke.
async fn pump(
    app: &App,
    mut from: BodyDataStream,
    to: &mpsc::Sender<Bytes>,
    pulse: &Pulse,
) -> Result<(), axum::Error> {
    while let Some(piece) = from.next().await {
        let mut piece = piece?;
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(PIECE_BYTES));
            // Full: whoever reads sets the pace. Closed: that is seen elsewhere, and ends everything.
            if to.send(part).await.is_err() {
                std::future::pending::<()>().await;
            }
            pulse.0.store(app.clock.now().timestamp_millis(), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Ends when the console may not go on.
async fn guard(app: &App, permit: &Permit, target: &Target, pulse: &Pulse) -> End {
    loop {
        tokio::time::sleep(RECHECK).await;
        if !may_go_on(app, permit, target).await {
            return End::Forbidden;
        }
        if !is_there(app, target) {
            return End::Moved;
        }
        let idle = app.clock.now().timestamp_millis() - pulse.0.load(Ordering::Relaxed);
        if idle >= TimeDelta::minutes(IDLE_MINUTES).num_milliseconds() {
            return End::Idle;
        }
    }
}

/// Looks the token up past all memory (S6).
async fn may_go_on(app: &App, permit: &Permit, target: &Target) -> bool {
    match authentication::lookup(app, &permit.token_hash).await {
        Ok(found) => found.is_some_and(|p| allows(&p.grants, Role::Operator, &target.project.scope())),
        Err(e) => {
            tracing::debug!(error = %e, "a console's token cannot be looked up now");
            app.clock.now() < permit.principal.expires_at
        }
    }
}

/// Whether the VM still is where it was.
fn is_there(app: &App, target: &Target) -> bool {
    match app.hub.read(|rows| rows.object(Noun::Vm, target.vm_id.0)) {
        Some(Object::Vm(_, Some(placement), ..)) => placement.host_id == Some(target.host_id),
        _ => false,
    }
}

/// What came through a channel, as a body: it ends with an error when the console broke.
pub fn body(mut pieces: mpsc::Receiver<Bytes>, broken: Arc<AtomicBool>) -> Body {
    let pieces = futures::stream::poll_fn(move |context| {
        pieces.poll_recv(context).map(|piece| match piece {
            Some(piece) => Some(Ok(piece)),
            None => broken
                .swap(false, Ordering::AcqRel)
                .then(|| Err(std::io::Error::other("the console was ended"))),
        })
    });
    Body::from_stream(pieces)
}
