//! Where a call ends up: a service in this process, or somewhere outside.

use super::{
    Body, CallContext,
    body::{Gathered, Gathering},
    call::{Answer, Call, Receiver, Work},
    driver::{Drives, hand_out},
    exports::FunctionKey,
    pool::Placed,
    revision::Revision,
};
use crate::{
    events::{Event, Verdict},
    policy::{Fault, FaultKind},
};
use arc_swap::ArcSwapOption;
use hyper::{Request, Response};
use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};
use wasmtime::component::Val;

/// A service in this process: a name, and the revision that calls go to now.
pub struct Service {
    name: Arc<str>,
    revision: ArcSwapOption<Revision>,
}

/// A call with an answer to wait for, and the workers that this task polls meanwhile.
struct Driving {
    answer: Receiver,
    drives: Drives,
}

// === impl Service ===

impl Service {
    /// A service that has no revision yet: calls find it `unreachable`.
    pub fn new(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), revision: ArcSwapOption::empty() })
    }

    /// The service's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The revision that calls go to.
    pub fn revision(&self) -> Option<Arc<Revision>> {
        self.revision.load_full()
    }

    /// Sends the calls that come from now on to `revision`, and lets those in flight end where they are. Gives back
    /// the revision that was there before.
    pub fn swap(&self, revision: Option<Arc<Revision>>) -> Option<Arc<Revision>> {
        let before = self.revision.swap(revision);
        if let Some(before) = &before {
            before.pool.close();
        }
        before
    }

    /// Lets the service handle an HTTP request.
    pub async fn http(&self, context: CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let mut driving = self.begin(context, Work::Http(request))?;
        let Answer::Http(response) = driving.answer().await? else { return Err(self.mismatch()) };
        Ok(driving.complete(response).await)
    }

    /// Calls a function that the service exports.
    pub async fn function(
        &self,
        context: CallContext,
        key: Arc<FunctionKey>,
        params: Arc<[Val]>,
    ) -> Result<Vec<Val>, Fault> {
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

    async fn call(&self, context: CallContext, work: Work) -> Result<Answer, Fault> {
        self.begin(context, work)?.answer().await
    }

    fn begin(&self, context: CallContext, work: Work) -> Result<Driving, Fault> {
        let revision = self.revision.load();
        let Some(revision) = revision.as_ref() else {
            return Err(Fault::new(FaultKind::Unreachable, format!("service `{}` is not running", self.name)));
        };
        let (call, answer) = Call::new(context, work);
        let mut drives = Drives::default();
        if let Placed::Drive(drive) = revision.pool.place(call)?
            && let Err(drive) = hand_out(drive)
        {
            drives.push(drive);
        }
        Ok(Driving { answer, drives })
    }

    /// A worker answers each kind of work with its own kind of answer, so nobody sees this.
    fn mismatch(&self) -> Fault {
        Fault::new(FaultKind::Trapped, format!("service `{}` answered something else than it was asked", self.name))
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
