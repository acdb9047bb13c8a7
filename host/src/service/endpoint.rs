//! Where a call ends up: a service in this process, or somewhere outside.

use super::{
    Body, CallContext,
    body::{Gathered, Gathering},
    call::{Answer, Call, Receiver, Work},
    driver::{Drives, hand_out},
    edge::Edge,
    exports::FunctionKey,
    pool::Placed,
    revision::Revision,
    tape::Tape,
    trial::{Counting, Side, Trial},
};
use crate::{
    events::{Event, Verdict},
    policy::{Fault, FaultKind},
    saga::{self, StepCall, binding::Doing},
};
use arc_swap::ArcSwapOption;
use hyper::{Request, Response};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
};

/// A service in this process: a name, and the revision that calls go to now.
pub struct Service {
    name: Arc<str>,
    serving: ArcSwapOption<Serving>,
    /// The edges that end here.
    edges: Mutex<Vec<Weak<Edge>>>,
}

/// Where calls go: to one revision, and some of them perhaps to another that is on trial.
struct Serving {
    revision: Arc<Revision>,
    trial: Option<Arc<Trial>>,
}

/// A call with an answer to wait for, and the workers that this task polls meanwhile.
struct Driving {
    answer: Receiver,
    drives: Drives,
}

/// A copy of a request, for a revision that answers it for nobody.
struct Copy {
    trial: Arc<Trial>,
    context: CallContext,
    request: Request<Body>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

// === impl Service ===

impl Service {
    /// A service that has no revision yet: calls find it `unreachable`.
    pub fn new(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), serving: ArcSwapOption::empty(), edges: Mutex::default() })
    }

    /// The service's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// An edge ends here.
    pub(super) fn add_edge(&self, edge: &Arc<Edge>) {
        self.edges().push(Arc::downgrade(edge));
    }

    /// What the edges know of the callee's health is of another revision.
    fn tell_edges(&self) {
        self.edges().retain(|edge| match edge.upgrade() {
            Some(edge) => {
                edge.callee_changed();
                true
            }
            None => false,
        });
    }

    fn edges(&self) -> MutexGuard<'_, Vec<Weak<Edge>>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision that calls go to, apart from those that a trial gets.
    pub fn revision(&self) -> Option<Arc<Revision>> {
        self.serving.load().as_ref().map(|serving| serving.revision.clone())
    }

    /// The revision that is on trial.
    pub fn trial(&self) -> Option<Arc<Trial>> {
        self.serving.load().as_ref()?.trial.clone()
    }

    /// Sends the calls that come from now on to `revision`, and ends a trial if there is one. Calls in flight end where
    /// they are. Gives back the revision that was there before.
    pub fn swap(&self, revision: Option<Arc<Revision>>) -> Option<Arc<Revision>> {
        let serving = revision.map(|revision| Arc::new(Serving { revision, trial: None }));
        let before = self.serving.swap(serving)?;
        self.tell_edges();
        before.revision.pool.close();
        Some(before.revision.clone())
    }

    /// Sends some of the calls that come from now on to a revision on trial, or with `None` no more of them. To be called
    /// by one at a time, and by nobody while [`swap`](Self::swap) is.
    pub fn try_out(&self, trial: Option<Arc<Trial>>) {
        if let Some(serving) = self.serving.load_full() {
            self.serving.store(Some(Arc::new(Serving { revision: serving.revision.clone(), trial })));
            self.tell_edges();
        }
    }

    /// Lets the service handle an HTTP request.
    pub async fn http(&self, context: CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let (mut driving, counting, copy) = {
            let serving = self.serving.load();
            let serving = serving.as_ref().ok_or_else(|| self.stopped())?;
            let copy = serving.trial.as_ref().and_then(|trial| {
                trial.see(request.headers(), &context.trace);
                Copy::of(trial, &context, &request)
            });
            let (driving, counting) = serving.begin(context, Work::Http(request))?;
            (driving, counting, copy)
        };
        let result = match driving.answer().await {
            Ok(Answer::Http(response)) => Ok(driving.complete(response).await),
            Ok(_) => Err(self.mismatch()),
            Err(fault) => Err(fault),
        };
        if let Some(counting) = counting {
            counting.ended(result.as_ref().map(|response| Some(response.status().as_u16())));
        }
        if let (Ok(response), Some(copy)) = (&result, copy) {
            copy.send(self.name.clone(), response);
        }
        result
    }

    /// Calls a function that the service exports.
    pub async fn function(&self, context: CallContext, key: Arc<FunctionKey>, params: Tape) -> Result<Tape, Fault> {
        match self.call(context, Work::Function(key, params)).await? {
            Answer::Function(results) => Ok(results),
            _ => Err(self.mismatch()),
        }
    }

    /// Delivers an event.
    pub async fn event(&self, context: CallContext, event: Arc<Event>, attempt: u32) -> Result<Verdict, Fault> {
        match self.call(context, Work::Event(event, attempt)).await? {
            Answer::Event(verdict) => Ok(verdict),
            _ => Err(self.mismatch()),
        }
    }

    /// Does a step of a saga, or takes it back.
    pub async fn step(&self, context: CallContext, doing: Doing, call: StepCall) -> Result<saga::Outcome, Fault> {
        match self.call(context, Work::Step(doing, Box::new(call))).await? {
            Answer::Step(outcome) => Ok(outcome),
            _ => Err(self.mismatch()),
        }
    }

    async fn call(&self, context: CallContext, work: Work) -> Result<Answer, Fault> {
        let (mut driving, counting) = {
            let serving = self.serving.load();
            serving.as_ref().ok_or_else(|| self.stopped())?.begin(context, work)?
        };
        let result = driving.answer().await;
        if let Some(counting) = counting {
            counting.ended(result.as_ref().map(|_| None));
        }
        result
    }

    fn stopped(&self) -> Fault {
        Fault::new(FaultKind::Unreachable, format!("service `{}` is not running", self.name))
    }

    /// A worker answers each kind of work with its own kind of answer, so nobody sees this.
    fn mismatch(&self) -> Fault {
        Fault::new(FaultKind::Trapped, format!("service `{}` answered something else than it was asked", self.name))
    }
}

fn begin(revision: &Revision, context: CallContext, work: Work) -> Result<Driving, Fault> {
    let (call, answer) = Call::new(context, work);
    let mut drives = Drives::default();
    if let Placed::Drive(drive) = revision.pool.place(call)?
        && let Err(drive) = hand_out(drive)
    {
        drives.push(drive);
    }
    Ok(Driving { answer, drives })
}

// === impl Serving ===

impl Serving {
    /// Begins a call at the revision that is to have it. Also gives who is to be told what came of it.
    fn begin(&self, context: CallContext, work: Work) -> Result<(Driving, Option<Counting>), Fault> {
        let Some(trial) = &self.trial else { return Ok((begin(&self.revision, context, work)?, None)) };
        let side = trial.side(&context.trace);
        let revision = if side == Side::New { &trial.revision } else { &self.revision };
        let counting = trial.count(side);
        match begin(revision, context, work) {
            Ok(driving) => Ok((driving, Some(counting))),
            Err(fault) => {
                counting.ended(Err(&fault));
                Err(fault)
            }
        }
    }
}

// === impl Copy ===

impl Copy {
    /// Of a request with a safe method (RFC 9110, 9.2.1) that is there as a whole, if copies are wanted.
    fn of(trial: &Arc<Trial>, context: &CallContext, request: &Request<Body>) -> Option<Self> {
        if !request.method().is_safe() {
            return None;
        }
        let permit = trial.copy()?;
        let mut copy = Request::new(Body::complete(request.body().to_complete()?));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        let context = CallContext { unit: None, ..context.clone() };
        Some(Self { trial: trial.clone(), context, request: copy, _permit: permit })
    }

    /// Sends it to the revision on trial, holds the answer against that which the caller got, and throws it away.
    fn send(self, service: Arc<str>, answered: &Response<Body>) {
        let (status, body) = (answered.status(), answered.body().to_complete());
        tokio::spawn(async move {
            let Self { trial, context, request, _permit } = self;
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let counting = trial.count(Side::New);
            let answer = async {
                let mut driving = begin(&trial.revision, context, Work::Http(request))?;
                match driving.answer().await? {
                    Answer::Http(response) => Ok(Some(driving.complete(response).await)),
                    _ => Ok(None),
                }
            };
            let difference = match answer.await {
                Ok(None) => return,
                Err(fault) => {
                    counting.ended(Err(&fault));
                    Some(fault.to_string())
                }
                Ok(Some(response)) => {
                    counting.ended(Ok(Some(response.status().as_u16())));
                    let found = response.status();
                    if found != status {
                        Some(format!("status {found} in place of {status}"))
                    } else {
                        // What streams is not compared.
                        let both = response.body().to_complete().zip(body);
                        both.filter(|(new, old)| new != old)
                            .map(|(new, old)| format!("a body of {} bytes in place of {}", new.len(), old.len()))
                    }
                }
            };
            if let Some(difference) = difference {
                trial.differs();
                let revision = trial.revision.info().number;
                tracing::debug!(%service, revision, %method, path, difference, "a shadow answered differently");
            }
        });
    }
}

// === impl Driving ===

impl Driving {
    async fn answer(&mut self) -> Result<Answer, Fault> {
        poll_fn(|cx| {
            // NB: the workers first. Mostly the answer is there then, and nobody is woken for it.
            if !self.drives.is_empty() {
                let _ = self.drives.poll(cx);
            }
            Pin::new(&mut self.answer).poll(cx)
        })
        .await
        .unwrap_or_else(|_| Err(Fault::new(FaultKind::Cancelled, "the worker went away with the call")))
    }

    /// Takes what there is of the body: mostly all of it, and then neither chunked encoding nor another task is
    /// needed. What the guest only makes later streams.
    async fn complete(&mut self, response: Response<Body>) -> Response<Body> {
        if response.body().as_complete().is_some() || self.drives.is_empty() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let mut gathering = Gathering::new(body);
        // All that comes without waiting: a body that has to be waited for is one that streams.
        poll_fn(|cx| {
            loop {
                // The guest goes on when there is room, and perhaps only waits for the end of the body to be taken.
                let _ = self.drives.poll(cx);
                match gathering.poll(cx) {
                    Gathered::More => {}
                    Gathered::Nothing | Gathered::Enough => return Poll::Ready(()),
                    Gathered::All => {
                        let _ = self.drives.poll(cx);
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
        Response::from_parts(parts, gathering.into_body())
    }
}

impl Drop for Driving {
    /// What is still under way goes on without this task: bodies that stream, and calls of others that joined. A call
    /// that was given up ends its instance, which its worker notices as soon as it is polled again.
    fn drop(&mut self) {
        self.answer.close();
        std::mem::take(&mut self.drives).detach();
    }
}
