//! What goes wrong on the way, on demand: each fault meets the requests it is for, so often as it says.

use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is answered with this number and has no effect.
    Status(u16),
    /// As [`Action::Status`], with `Retry-After` in seconds.
    RetryAfter(u16, u32),
    /// The connection ends before it has an effect.
    ResetBefore,
    /// It has its effect; the connection ends without an answer.
    ResetAfter,
    /// It has no effect and is never answered.
    HangBefore,
    /// It has its effect and is never answered.
    HangAfter,
    /// It is late.
    Delay(Duration),
    /// It waits, before it has an effect, until [`Faults::release`].
    Hold,
    /// The answer is no JSON.
    Garbage,
}

/// Which requests something happens to.
#[derive(Clone, Debug)]
pub struct Fault {
    verb: Option<String>,
    resource: Option<String>,
    nth: Option<u64>,
    times: u64,
    action: Action,
}

impl Fault {
    /// Something that happens to every request from now on.
    pub fn new(action: Action) -> Self {
        Self { verb: None, resource: None, nth: None, times: u64::MAX, action }
    }

    /// Only to requests of this verb of Kubernetes (`get`, `patch` …).
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only to requests for this resource (`deployments` …).
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Only to the n-th request after [`Faults::clear`], from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = Some(nth);
        self
    }
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// Who asked.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `patch`, `update`, `delete`, `deletecollection`.
    pub verb: String,
    /// API group; empty for the core's.
    pub group: String,
    /// `deployments`, `pods/log` …
    pub resource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
}

#[derive(Default)]
struct Inner {
    faults: Vec<Fault>,
    count: u64,
    held: u64,
    recorded: Vec<Recorded>,
}

/// The faults of a server, and what was asked of it.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Inner>>, Arc<tokio::sync::Notify>);

impl Faults {
    /// Adds one; the first that is for a request has it.
    pub fn add(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Takes all away, and counts requests from 1 again.
    pub fn clear(&self) {
        let mut inner = self.0.lock();
        inner.faults.clear();
        inner.count = 0;
    }

    /// How many requests are being held.
    pub fn held(&self) -> u64 {
        self.0.lock().held
    }

    /// Lets all go on that are held.
    pub fn release(&self) {
        self.1.notify_waiters();
    }

    pub(crate) async fn hold(&self) {
        let released = self.1.notified();
        self.0.lock().held += 1;
        released.await;
        self.0.lock().held -= 1;
    }

    /// How many requests came since [`Faults::clear`].
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Every request so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.0.lock().recorded.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.0.lock().recorded.clear();
    }

    pub(crate) fn meet(&self, request: Recorded) -> Option<Action> {
        let mut inner = self.0.lock();
        inner.count += 1;
        let count = inner.count;
        let found = inner.faults.iter_mut().find(|fault| {
            fault.times > 0
                && fault.nth.is_none_or(|nth| nth == count)
                && fault.verb.as_ref().is_none_or(|verb| *verb == request.verb)
                && fault.resource.as_ref().is_none_or(|resource| *resource == request.resource)
        });
        let action = found.map(|fault| {
            fault.times -= 1;
            fault.action.clone()
        });
        inner.recorded.push(request);
        action
    }
}
