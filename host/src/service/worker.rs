//! A worker: one store with one instance, and the loop that runs calls in it.

use super::{
    CallContext,
    call::{Answer, Call, Work},
    desk::Callers,
    driver::is_detached,
    exports::{FunctionKey, InstanceExports, StepFunction},
    http,
    pool::Seat,
    set::Set,
    state::State,
    tape::NotCarried,
};
use crate::{
    engine::CpuBudget,
    events::{
        Event, Verdict,
        binding::{WitEvent, WitVerdict},
    },
    policy::{Fault, FaultKind},
    saga::{self, StepCall, binding::Doing},
};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};
use tokio::time::{Duration, Sleep, sleep};
use wasmtime::{
    AsContextMut, Store,
    component::{Accessor, TypedFunc},
};

/// How long a guest may go on after all its calls are answered and their bodies sent.
const LINGER: Duration = Duration::from_secs(10);

/// How long a body may lie there with nobody taking anything of it. It holds an instance meanwhile, and its reader may be
/// a neighbour that has forgotten it.
const UNREAD: Duration = Duration::from_secs(300);

/// An instance with its store.
pub(super) struct Worker {
    pub store: Store<State>,
    pub exports: InstanceExports,
    pub budget: CpuBudget,
    /// How many calls it has begun.
    pub served: u64,
}

/// How a worker's run ended.
enum End {
    /// There is nothing more to do, and the instance is good for other calls.
    AtRest,
    /// The store must be dropped.
    Retired,
}

/// Runs calls, the one on the seat's desk first, until there are none.
///
/// Dropped in between, it drops its store with everything in it: guest code is never entered again after its caller is
/// gone.
pub(super) async fn drive(mut seat: Seat, at_rest: Option<Worker>) {
    let mut at_rest = at_rest;
    loop {
        let mut worker = match at_rest.take() {
            Some(worker) => worker,
            None => match seat.pool().instantiate().await {
                Ok(worker) => worker,
                Err(fault) => {
                    for call in seat.desk().take_waiting() {
                        call.reply.send(Err(fault.clone()));
                    }
                    return;
                }
            },
        };
        match run(&seat, &mut worker).await {
            End::AtRest => match seat.rest(worker) {
                // More came in while it was on its way to the pool.
                Some((again, worker)) => {
                    seat = again;
                    at_rest = Some(worker);
                }
                None => return,
            },
            End::Retired => {
                // The store goes first: only then is there room for another instance.
                drop(worker);
                return;
            }
        }
    }
}

async fn run(seat: &Seat, worker: &mut Worker) -> End {
    let Worker { store, exports, budget, served } = worker;
    let (desk, last_words) = (seat.desk(), store.data().last_words());
    let clock = seat.pool().clock();
    budget.reset();
    store.set_epoch_deadline(1);

    // The loop inside was polled: nothing holds the store.
    let polled = AtomicBool::new(false);
    let run = store.run_concurrent(async |accessor| calls(accessor, exports, seat, served, &polled).await);
    let mut run = pin!(run);
    let mut linger: Option<Pin<Box<Sleep>>> = None;
    let mut unread: Option<Pin<Box<Sleep>>> = None;
    let mut frames = 0;
    // NB: the last one here, so that it is the first one to go.
    let running = desk.run();
    let ended = poll_fn(|cx| {
        clock.guest_entered();
        let ticks = budget.ticks();
        polled.store(false, Ordering::Relaxed);
        if let Some(fault) = desk.evicted() {
            return Poll::Ready(Err(fault));
        }
        desk.enter();
        if let Poll::Ready(ended) = run.as_mut().poll(cx) {
            return Poll::Ready(Ok(ended));
        }
        desk.leave();
        // A guest that was interrupted computes still; one that was not waits for something.
        let computes = budget.ticks() != ticks;
        if !computes {
            budget.reset();
        }
        // NB: a guest that waits in a synchronous import holds its store, and nothing can be begun in it (wasmtime
        // #11869). That shows at the second poll only, so a call may be handed in before.
        let waits = !computes && polled.load(Ordering::Relaxed);
        desk.set_waits(waits);
        if waits {
            if seat.pool().has_queued() && desk.has_room(seat.pool().settings().concurrency) {
                cx.waker().wake_by_ref();
            }
        } else if desk.has_waiting() {
            seat.give_back();
        }
        match desk.poll_callers(cx) {
            Callers::Wait => (linger, unread) = (None, None),
            Callers::GaveUp => return Poll::Ready(Err(given_up())),
            // Whoever still polls for an answer of his own soon lets go: no timer, and no lock of the runtime for one.
            Callers::Read | Callers::Answered if !is_detached() => (linger, unread) = (None, None),
            Callers::Read => {
                linger = None;
                if frames != desk.frames() {
                    frames = desk.frames();
                    unread = None;
                }
                if unread.get_or_insert_with(|| Box::pin(sleep(UNREAD))).as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(given_up()));
                }
            }
            Callers::Answered => {
                unread = None;
                if linger.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(given_up()));
                }
            }
        }
        Poll::Pending
    })
    .await;
    match ended {
        Ok(Ok(Ok(retire))) => {
            running.end_well();
            if retire { End::Retired } else { End::AtRest }
        }
        Ok(Ok(Err(error)) | Err(error)) => {
            let service = seat.pool().service();
            let cause = error.root_cause().to_string();
            let (trap, stderr) = (format!("{error:?}"), last_words.said());
            tracing::error!(%service, trap, stderr, "the instance trapped; its calls fail");
            desk.fail(&Fault::new(FaultKind::Trapped, format!("service `{service}` trapped: {cause}")));
            End::Retired
        }
        Err(fault) => {
            desk.fail(&fault);
            End::Retired
        }
    }
}

fn given_up() -> Fault {
    Fault::new(FaultKind::Cancelled, "the instance was given up together with its calls")
}

/// The loop inside of the store: begins calls as they come in, and ends when there are none. Says whether the instance
/// has served its time.
async fn calls(
    accessor: &Accessor<State>,
    exports: &InstanceExports,
    seat: &Seat,
    served: &mut u64,
    polled: &AtomicBool,
) -> wasmtime::Result<bool> {
    let desk = seat.desk();
    let settings = seat.pool().settings();
    let mut under_way = Set::default();
    poll_fn(|cx| {
        polled.store(true, Ordering::Relaxed);
        loop {
            let mut trap = None;
            let _ = under_way.poll_within(cx, |ended: wasmtime::Result<()>| trap = trap.take().or(ended.err()));
            if let Some(trap) = trap {
                return Poll::Ready(Err(trap));
            }
            let retire = *served >= settings.reuse;
            if retire {
                desk.close();
            } else if seat.pool().has_queued()
                && (under_way.is_empty() || desk.waits())
                && desk.has_room(settings.concurrency)
            {
                seat.take_queued();
            }
            if under_way.len() < settings.concurrency
                && let Some(call) = desk.poll_take(cx)
            {
                *served += 1;
                // It computes first, as far as anybody knows: the next one in the queue is for whoever is free sooner.
                desk.set_waits(false);
                under_way.push(Box::pin(begin(accessor, exports, seat, call)));
                continue;
            }
            // Tasks of the guest that outlive their call (a body that is still being written) keep it going.
            if under_way.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready() && (desk.close_if_empty()) {
                return Poll::Ready(Ok(retire));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// Runs one call to its answer. An error is the end of the whole store.
async fn begin(accessor: &Accessor<State>, exports: &InstanceExports, seat: &Seat, call: Call) -> wasmtime::Result<()> {
    let Call { context, work, reply } = call;
    let desk = seat.desk();
    let ticket = desk.begin(reply);
    let answer = match work {
        Work::Http(request) => match &exports.http {
            Some(handler) => http::handle(accessor, handler, desk, context, request).await?.map(Answer::Http),
            None => Err(absent(seat, format_args!("no handler for HTTP requests"))),
        },
        Work::Function(key, params) => match seat.pool().exports().position(&key) {
            Some(at) => {
                let (function, callee) = exports.functions[at];
                let answer = callee.call(accessor, function, context, params).await?;
                answer.map(Answer::Function).map_err(|reason| not_carried(seat, &key, reason))
            }
            None => Err(absent(
                seat,
                format_args!("no function `{}` of `{}` with the types of this call", key.function, key.interface),
            )),
        },
        Work::Event(event, attempt) => match &exports.handler {
            Some(handler) => deliver(accessor, handler, context, &event, attempt).await.map(Answer::Event).map(Ok)?,
            None => Err(absent(seat, format_args!("no handler for events"))),
        },
        Work::Step(doing, call) => {
            let function = match doing {
                Doing::Action => &exports.steps.act,
                Doing::Compensation => &exports.steps.compensate,
            };
            match function {
                Some(function) => step(accessor, function, context, *call).await.map(Answer::Step).map(Ok)?,
                None => Err(absent(seat, format_args!("no sagas"))),
            }
        }
    };
    if let Some(reply) = desk.end(ticket) {
        reply.send(answer);
    }
    Ok(())
}

/// What a call meets whose target is not there: the manifest's check finds it before, unless a revision lost it.
fn absent(seat: &Seat, what: std::fmt::Arguments<'_>) -> Fault {
    Fault::new(FaultKind::Unreachable, format!("service `{}` exports {what}", seat.pool().service()))
}

/// What a caller gets in place of an answer that can't be carried. The instance is none the worse for it.
fn not_carried(seat: &Seat, key: &FunctionKey, reason: NotCarried) -> Fault {
    let (service, FunctionKey { interface, function, .. }) = (seat.pool().service(), key);
    Fault::new(FaultKind::Trapped, format!("service `{service}` answered `{function}` of `{interface}` with {reason}"))
}

async fn deliver(
    accessor: &Accessor<State>,
    handler: &TypedFunc<(WitEvent,), (WitVerdict,)>,
    context: CallContext,
    event: &Event,
    attempt: u32,
) -> wasmtime::Result<Verdict> {
    let (call, task) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let call = handler.start_call_concurrent(&mut store, (WitEvent::from((event, attempt)),))?;
        let task = call.task();
        store.data_mut().calls.insert(task, context);
        wasmtime::error::Ok((call, task))
    })?;
    let ended = handler.finish_call_concurrent(accessor, call).await;
    accessor.with(|mut access| access.data_mut().calls.remove(task));
    ended.map(|(verdict,)| verdict.into())
}

async fn step(
    accessor: &Accessor<State>,
    function: &StepFunction,
    context: CallContext,
    call: StepCall,
) -> wasmtime::Result<saga::Outcome> {
    let (call, task) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let call = function.start_call_concurrent(&mut store, (call.into(),))?;
        let task = call.task();
        store.data_mut().calls.insert(task, context);
        wasmtime::error::Ok((call, task))
    })?;
    let ended = function.finish_call_concurrent(accessor, call).await;
    accessor.with(|mut access| access.data_mut().calls.remove(task));
    ended.map(|(outcome,)| outcome.into())
}
