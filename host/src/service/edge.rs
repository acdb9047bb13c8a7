//! Edges: who calls whom, under which policy.

use super::{Body, CallContext, endpoint::Service, exports::FunctionKey};
use crate::{
    events::{Event, Verdict},
    outbound::External,
    policy::{Answer, Attempt, BreakerCommand, Fault, FaultKind, Guard, GuardSnapshot, Policy, Repeat, Tried},
};
use arc_swap::ArcSwap;
use hyper::{Request, Response};
use std::{sync::Arc, time::Duration};
use wasmtime::component::Val;

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
    /// A service or an origin outside, by HTTP.
    External(Arc<External>),
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
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The longest that a call on it may take.
    pub fn deadline(&self) -> Duration {
        self.guard.load().policy().params().deadline
    }

    /// Puts another policy in place of the present one: breaker state and counters carry on.
    pub fn set_policy(&self, policy: Policy) {
        // Whoever comes in between keeps what it loaded.
        self.guard.rcu(|guard| Arc::new(guard.with_policy(policy.clone())));
    }

    /// Does to the circuit breaker what an operator says. `None` if the edge has none.
    pub fn command(&self, command: BreakerCommand) -> Option<()> {
        self.guard.load().command(command)
    }

    /// Sends an HTTP request. It is tried again after faults that come before anything was begun; after others, and after
    /// answers whose status the policy names, only where its method is safe (RFC 9110, 9.2.1) or its route is marked
    /// [`Idempotent`]. A body that streams can't be sent twice, so such a request is tried once.
    pub async fn http(&self, context: &CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let guard = self.guard.load();
        let idempotent = request.method().is_safe() || request.extensions().get::<Idempotent>().is_some();
        let mut again = Replay::of(request, guard.policy().params().retry.params().attempts);
        let repeat = match (again.complete.is_some(), idempotent) {
            (false, _) => Repeat::Never,
            (true, false) => Repeat::IfNothingBegun,
            (true, true) => Repeat::Always,
        };
        let tried = Tried::default();
        let attempt = |attempt: Attempt| {
            let context = self.context(context, attempt);
            let request = again.next();
            let (policy, tried) = (guard.policy(), &tried);
            async move {
                let request = request.ok_or_else(|| {
                    Fault::new(FaultKind::Cancelled, "the request's body streamed away with the first try")
                })?;
                let response = match &self.endpoint {
                    Endpoint::Service(service) => service.http(context, request).await?,
                    Endpoint::External(external) => external.http(&context, request, policy, tried).await?,
                };
                let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
                Ok(Answer { value: response, status: Some(status), retry_after })
            }
        };
        guard.run(&context.deadline, repeat, attempt).await
    }

    /// Calls a typed function.
    pub async fn function(
        &self,
        context: &CallContext,
        key: &Arc<FunctionKey>,
        params: Arc<[Val]>,
    ) -> Result<Vec<Val>, Fault> {
        let guard = self.guard.load();
        let idempotent = guard.policy().params().retry.is_idempotent(&key.interface, &key.function);
        let repeat = if idempotent { Repeat::Always } else { Repeat::IfNothingBegun };
        let attempt = |attempt: Attempt| {
            let context = self.context(context, attempt);
            let (key, params) = (key.clone(), params.clone());
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.function(context, key, params).await.map(Answer::of),
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "a service outside has no typed functions"))
                    }
                }
            }
        };
        guard.run(&context.deadline, repeat, attempt).await
    }

    /// Delivers an event, once: delivering again is its subscription's business.
    pub async fn event(&self, context: &CallContext, event: &Arc<Event>, number: u32) -> Result<Verdict, Fault> {
        let guard = self.guard.load();
        let attempt = |attempt: Attempt| {
            let context = self.context(context, attempt);
            let event = event.clone();
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.event(context, event, number).await.map(Answer::of),
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "a service outside has no subscriptions"))
                    }
                }
            }
        };
        guard.run(&context.deadline, Repeat::IfNothingBegun, attempt).await
    }

    fn context(&self, of_caller: &CallContext, attempt: Attempt) -> CallContext {
        CallContext { caller: self.caller.clone(), deadline: attempt.deadline, trace: of_caller.trace.child() }
    }

    /// A look at its state.
    pub fn snapshot(&self) -> GuardSnapshot {
        self.guard.load().snapshot()
    }
}

/// Marks a request that may be made twice though its method is not safe: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Idempotent;

/// When the callee wants to be asked again: the seconds of `Retry-After` (RFC 9110, 10.2.3). Its other form, a date, is
/// the callee's clock against this one's, and is left alone.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let value = response.headers().get(http::header::RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
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
