//! Edges: who calls whom, under which policy.

use super::{
    Body, CallContext,
    endpoint::Service,
    exports::FunctionKey,
    fallback::{self, Memorable, Remembered},
    fixed::FixedResults,
    tape::Tape,
};
use crate::{
    events::{Event, Verdict},
    mail::{Handed, Letter, Post},
    outbound::External,
    policy::{
        Answer, Attempt, BreakerCommand, Failure, FallbackPolicy, Fault, FaultKind, Guard, GuardSnapshot, Policy,
        Repeat, StaleParams, Tried,
    },
    saga::{self, StepCall, binding::Doing},
};
use arc_swap::ArcSwap;
use hyper::{Request, Response};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// One caller's way to one callee. All calls on it, of whatever kind, share one policy and its live state.
pub struct Edge {
    name: Arc<str>,
    caller: Arc<str>,
    guard: ArcSwap<Guard>,
    /// Held by who puts another guard in place.
    changing: Mutex<()>,
    endpoint: Endpoint,
    remembered: Remembered,
    fixed_results: ArcSwap<FixedResults>,
}

/// Where calls on an edge end up. A caller can't tell which it is.
pub enum Endpoint {
    /// A service in this process.
    Service(Arc<Service>),
    /// A service or an origin outside, by HTTP.
    External(Arc<External>),
    /// Whom mail is left with. It takes letters, and nothing else is sent to it.
    Mail(Arc<Post>),
}

// === impl Edge ===

impl Edge {
    /// An edge from `caller` to `callee` under `policy`.
    pub fn new(caller: impl Into<Arc<str>>, callee: &str, policy: Policy, endpoint: Endpoint) -> Arc<Self> {
        let caller = caller.into();
        let name: Arc<str> = format!("{caller} -> {callee}").into();
        let guard = ArcSwap::from_pointee(Guard::new(name.clone(), policy));
        let (remembered, fixed_results) = (Remembered::default(), ArcSwap::default());
        let edge =
            Arc::new(Self { name, caller, guard, changing: Mutex::default(), endpoint, remembered, fixed_results });
        if let Endpoint::Service(service) = &edge.endpoint {
            service.add_edge(&edge);
        }
        edge
    }

    /// Where it ends is another revision, or another mail server: what its breaker knows is of the one before.
    pub(crate) fn callee_changed(&self) {
        self.guard.load().callee_changed();
    }

    /// `caller -> callee`, the name that the manifest uses.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it ends there.
    pub fn ends_at(&self, endpoint: &Endpoint) -> bool {
        match (&self.endpoint, endpoint) {
            (Endpoint::Service(own), Endpoint::Service(other)) => Arc::ptr_eq(own, other),
            (Endpoint::External(own), Endpoint::External(other)) => Arc::ptr_eq(own, other),
            (Endpoint::Mail(own), Endpoint::Mail(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// The longest that a call on it may take.
    pub fn deadline(&self) -> Duration {
        self.guard.load().policy().params().deadline
    }

    /// Puts another policy in place of the present one: breaker state and counters carry on.
    pub fn set_policy(&self, policy: Policy) {
        // One after the other: a guard that is made tells so in the log, and one that is made in vain must not. The lock
        // guards no data.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever comes in between keeps what it loaded.
        let guard = self.guard.load().with_policy(policy);
        self.guard.store(Arc::new(guard));
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.guard.load().policy().clone()
    }

    /// What its policy gives in place of a failure.
    pub fn fallback(&self) -> FallbackPolicy {
        self.guard.load().policy().params().fallback.clone()
    }

    /// Puts other fixed results in place of the present ones: those that its policy has, as values of the types of the
    /// component that it ends at. There are none until this is called.
    pub fn set_fixed_results(&self, results: FixedResults) {
        self.fixed_results.store(Arc::new(results));
    }

    /// Does to the circuit breaker what an operator says. `None` if the edge has none.
    pub fn command(&self, command: BreakerCommand) -> Option<()> {
        self.guard.load().command(command)
    }

    /// Sends an HTTP request. It is tried again after faults that come before anything was begun; after others, and after
    /// answers whose status the policy names, only where its method is safe (RFC 9110, 9.2.1) or its route is marked
    /// [`Idempotent`]. A body that streams can't be sent twice, so such a request is tried once.
    ///
    /// # Errors
    ///
    /// What the policy found no answer and no fallback for.
    pub async fn http(&self, context: &CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let guard = self.guard.load();
        let idempotent = request.method().is_safe() || request.extensions().get::<Idempotent>().is_some();
        let fallback = guard.policy().params().fallback.params();
        let stale = fallback.stale.as_ref().and_then(|stale| Some((stale, fallback::key_of_request(&request)?)));
        let remembers = stale.is_some();
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
                    Endpoint::Mail(_) => return Err(no_such_call("HTTP")),
                };
                let response = if remembers { fallback::complete(response).await? } else { response };
                let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
                Ok(Answer { value: response, status: Some(status), retry_after })
            }
        };
        let result = guard.run(&context.deadline, repeat, attempt).await;
        self.or_fallback(&guard, stale, result, || fallback.fixed.as_ref().map(fallback::fixed))
    }

    /// Calls a typed function.
    ///
    /// # Errors
    ///
    /// What the policy found no answer and no fallback for.
    pub async fn function(&self, context: &CallContext, key: &Arc<FunctionKey>, params: Tape) -> Result<Tape, Fault> {
        let guard = self.guard.load();
        let idempotent = guard.policy().params().retry.is_idempotent(&key.interface, &key.function);
        let repeat = if idempotent { Repeat::Always } else { Repeat::IfNothingBegun };
        let stale = guard.policy().params().fallback.remembers(&key.interface, &key.function);
        let stale = stale.and_then(|stale| Some((stale, fallback::CallKey::new(key, &params)?)));
        let attempt = |attempt: Attempt| {
            let context = self.context(context, attempt);
            let (key, params) = (key.clone(), params.clone());
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.function(context, key, params).await.map(Answer::of),
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "a service outside has no typed functions"))
                    }
                    Endpoint::Mail(_) => Err(no_such_call("typed functions")),
                }
            }
        };
        let result = guard.run(&context.deadline, repeat, attempt).await;
        self.or_fallback(&guard, stale, result, || self.fixed_results.load().get(key).cloned())
    }

    /// What a call came to, or what the policy gives in place of a failure: a stale answer, and where there is none the
    /// `fixed` one. What is good is remembered, if there is a key for it.
    fn or_fallback<A: Memorable>(
        &self,
        guard: &Guard,
        stale: Option<(&StaleParams, A::Key)>,
        result: Result<A, Fault>,
        fixed: impl FnOnce() -> Option<A>,
    ) -> Result<A, Fault> {
        let failure = match &result {
            Err(fault) if has_fallback(fault) => Some(Failure::Fault(fault.kind())),
            Err(_) => None,
            Ok(answer) => answer.status().and_then(|status| guard.policy().params().failure.of_status(status)),
        };
        let Some(failure) = failure else {
            if let (Ok(answer), Some((params, key))) = (&result, stale) {
                answer.remember(&self.remembered, params, key);
            }
            return result;
        };
        if let Some((params, key)) = &stale
            && let Some((answer, age)) = A::recall(&self.remembered, params, key, failure)
        {
            tracing::debug!(edge = &*self.name, %failure, ?age, "a stale answer in place of a failure");
            guard.count_fallback(true);
            return Ok(answer);
        }
        let Some(answer) = fixed() else { return result };
        tracing::debug!(edge = &*self.name, %failure, "the fixed answer in place of a failure");
        guard.count_fallback(false);
        Ok(answer)
    }

    /// Delivers an event, once: delivering again is its subscription's business. The context's unit of work is the
    /// handler's.
    pub async fn event(&self, context: &CallContext, event: &Arc<Event>, number: u32) -> Result<Verdict, Fault> {
        let guard = self.guard.load();
        let attempt = |attempt: Attempt| {
            let context = CallContext { unit: context.unit.clone(), ..self.context(context, attempt) };
            let event = event.clone();
            async move {
                match &self.endpoint {
                    Endpoint::Service(service) => service.event(context, event, number).await.map(Answer::of),
                    Endpoint::External(_) => {
                        Err(Fault::new(FaultKind::Unreachable, "a service outside has no subscriptions"))
                    }
                    Endpoint::Mail(_) => Err(no_such_call("subscriptions")),
                }
            }
        };
        guard.run(&context.deadline, Repeat::IfNothingBegun, attempt).await
    }

    /// Hands over a letter. It is tried again only where the mail server surely does not have it: there is no idempotent
    /// mail. A refusal for good is an answer.
    ///
    /// # Errors
    ///
    /// What the policy found no answer for.
    pub async fn mail(&self, context: &CallContext, letter: &Arc<Letter>) -> Result<Handed, Fault> {
        let guard = self.guard.load();
        let attempt = |_: Attempt| async move {
            match &self.endpoint {
                Endpoint::Mail(post) => post.deliver(letter).await.map(Answer::of),
                Endpoint::Service(_) | Endpoint::External(_) => {
                    Err(Fault::new(FaultKind::Unreachable, "a service takes no mail"))
                }
            }
        };
        guard.run(&context.deadline, Repeat::IfNothingBegun, attempt).await
    }

    /// Does a step of a saga or takes it back, once: its tries are written down, and so not the edge's business.
    ///
    /// # Errors
    ///
    /// Why there is no outcome.
    pub async fn step(&self, context: &CallContext, doing: Doing, call: StepCall) -> Result<saga::Outcome, Fault> {
        let guard = self.guard.load();
        let mut call = Some(call);
        let attempt = |attempt: Attempt| {
            let (context, call) = (self.context(context, attempt), call.take());
            async move {
                let call =
                    call.ok_or_else(|| Fault::new(FaultKind::Cancelled, "the step's call is gone with the first try"))?;
                match &self.endpoint {
                    Endpoint::Service(service) => service.step(context, doing, call).await.map(Answer::of),
                    Endpoint::External(_) => Err(Fault::new(FaultKind::Unreachable, "a service outside has no sagas")),
                    Endpoint::Mail(_) => Err(no_such_call("sagas")),
                }
            }
        };
        guard.run(&context.deadline, Repeat::Never, attempt).await
    }

    fn context(&self, of_caller: &CallContext, attempt: Attempt) -> CallContext {
        CallContext {
            caller: self.caller.clone(),
            deadline: attempt.deadline,
            trace: of_caller.trace.child(),
            unit: None,
        }
    }

    /// A look at its state.
    pub fn snapshot(&self) -> GuardSnapshot {
        self.guard.load().snapshot()
    }
}

/// There is no way to call the mail but by letters; the manifest has no edge by which one could try.
fn no_such_call(what: &str) -> Fault {
    Fault::new(FaultKind::Unreachable, format!("mail has no {what}"))
}

/// Whether a fault is one that the callee is to blame for, or its breaker: what the caller may not do, and what it gave up,
/// has no other answer.
fn has_fallback(fault: &Fault) -> bool {
    fault.kind().counts_as_failure() || fault.kind() == FaultKind::CircuitOpen
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
