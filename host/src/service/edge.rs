//! Edges: who calls whom, under which policy.

use super::{Body, CallContext, endpoint::Service, exports::FunctionKey, tape::Tape};
use crate::{
    events::{Event, Verdict},
    outbound::External,
    policy::{Attempt, Fault, FaultKind, Guard, GuardSnapshot, Policy},
};
use arc_swap::ArcSwap;
use hyper::{Request, Response};
use std::{sync::Arc, time::Duration};

/// One caller's way to one callee. All calls on it, of whatever kind, share one policy and its live state.
pub struct Edge {
    name: Arc<str>,
    caller: Arc<str>,
    guard: ArcSwap<Guard>,
    endpoint: Endpoint,
}

/// Where calls on an edge end up. A caller can't tell which it is.
pub enum Endpoint {
    /// A service in this process.
    Service(Arc<Service>),
    /// An origin outside, by HTTP.
    External(Box<External>),
}

// === impl Edge ===

impl Edge {
    /// An edge from `caller` to `callee` under `policy`.
    pub fn new(caller: impl Into<Arc<str>>, callee: &str, policy: Policy, endpoint: Endpoint) -> Arc<Self> {
        let caller = caller.into();
        let name: Arc<str> = format!("{caller} -> {callee}").into();
        let guard = ArcSwap::from_pointee(Guard::new(name.clone(), policy));
        Arc::new(Self { name, caller, guard, endpoint })
    }

    /// `caller -> callee`, the name that the manifest uses.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest that a call on it may take.
    pub fn deadline(&self) -> Duration {
        self.guard.load().policy().deadline()
    }

    /// Sends an HTTP request. It is tried again after faults that come before anything was begun; after others only
    /// where its method is safe (RFC 9110, 9.2.1). A body that streams can't be sent twice, so such a request is tried
    /// once.
    pub async fn http(&self, context: &CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let guard = self.guard.load();
        let idempotent = request.method().is_safe();
        let mut again = Replay::of(request, guard.policy().retry().attempts());
        let can_be_sent_again = again.complete.is_some();
        let attempt = |attempt: Attempt| {
            let context = self.context(context, &attempt);
            let request = again.next();
            async move {
                let request = request.ok_or_else(|| {
                    Fault::new(FaultKind::Cancelled, "the request's body streamed away with the first try")
                })?;
                match &self.endpoint {
                    Endpoint::Service(service) => service.http(context, request).await,
                    Endpoint::External(external) => external.http(&context, request).await,
                }
            }
        };
        if can_be_sent_again {
            guard.run(context.deadline, idempotent, attempt).await
        } else {
            guard.run_once(context.deadline, attempt).await
        }
    }

    /// Calls a typed function.
    pub async fn function(&self, context: &CallContext, key: &Arc<FunctionKey>, params: Tape) -> Result<Tape, Fault> {
        let guard = self.guard.load();
        let attempt = |attempt: Attempt| {
            let context = self.context(context, &attempt);
            let (key, params) = (key.clone(), params.clone());
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.function(context, key, params).await,
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "an origin outside has no typed functions"))
                    }
                }
            }
        };
        guard.run(context.deadline, false, attempt).await
    }

    /// Delivers an event, once: delivering again is its subscription's business.
    pub async fn event(&self, context: &CallContext, event: &Arc<Event>, number: u32) -> Result<Verdict, Fault> {
        let guard = self.guard.load();
        let attempt = |attempt: Attempt| {
            let context = self.context(context, &attempt);
            let event = event.clone();
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.event(context, event, number).await,
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "an origin outside has no subscriptions"))
                    }
                }
            }
        };
        guard.run(context.deadline, false, attempt).await
    }

    fn context(&self, of_caller: &CallContext, attempt: &Attempt) -> CallContext {
        CallContext { caller: self.caller.clone(), deadline: attempt.deadline, trace: of_caller.trace.child() }
    }

    /// A look at its state.
    pub fn snapshot(&self) -> GuardSnapshot {
        self.guard.load().snapshot()
    }
}

/// A request that may be sent more than once, as far as that is possible.
struct Replay {
    parts: http::request::Parts,
    body: Option<Body>,
    complete: Option<bytes::Bytes>,
    left: u32,
}

// === impl Replay ===

impl Replay {
    fn of(request: Request<Body>, attempts: u32) -> Self {
        let (parts, body) = request.into_parts();
        let complete = body.to_complete();
        Self { parts, body: Some(body), complete, left: attempts }
    }

    fn next(&mut self) -> Option<Request<Body>> {
        self.left = self.left.saturating_sub(1);
        let body = match &self.complete {
            Some(bytes) => Body::complete(bytes.clone()),
            None => self.body.take()?,
        };
        // The last try takes the headers themselves: most requests need just one.
        let parts = if self.left == 0 {
            let empty = Request::new(()).into_parts().0;
            std::mem::replace(&mut self.parts, empty)
        } else {
            self.parts.clone()
        };
        Some(Request::from_parts(parts, body))
    }
}
