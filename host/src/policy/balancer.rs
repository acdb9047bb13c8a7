//! Which of several endpoints gets a call.
//!
//! An external service may have several endpoints. Of those that are in, one is chosen for each attempt: in turn, or the
//! one with fewer calls in flight of two drawn by lot. Two drawn by lot are nearly as good as the least of all, and
//! unlike that never send all callers to the same one at once (Mitzenmacher, *The Power of Two Choices in Randomized
//! Load Balancing*, 2001). A second attempt goes to an endpoint that the call has not tried, while there is one.
//!
//! An endpoint is out while its probes say that it is unhealthy, or while its own circuit breaker is open, half-open
//! apart from the probes. What the two may do differs:
//!
//! - An **unhealthy** endpoint says itself that it can't serve, so any number may be unhealthy. If all are, a call ends
//!   as `unreachable` at once. That does not count against the edge that it came by
//!   ([`Ended::Nowhere`](super::Ended::Nowhere)), so calls flow again the moment one is back. Envoy would send it to one
//!   of them by lot (its "panic"), because its probes are answered by others than its calls may be; here both go the
//!   same way, and what can't answer a probe is spared the calls.
//! - An **ejected** one is out on the word of its callers, who may be wrong: it is perhaps the calls that are bad. So at
//!   most `max-ejected` in a hundred are out, the unhealthy ones counted in. Who would be one too many stays in though
//!   its breaker is open, and gets calls like the others; that is the panic of this place. Those that went first stay
//!   out, until their breakers close. With `max-ejected = 100` all may be out, and then a call ends as `circuit-open`.
//! - One that was **taken out** is out on the word of an operator, who knows what he does: any number may be, and they are
//!   counted in like the unhealthy.
//!
//! Endpoints and policy can change while calls run: they are one value, so that a call meets those of one manifest, and what
//! is known of an endpoint that stays carries on.
//!
//! While all is well a choice takes a few atomic loads, no lock, and no memory. All else, retries too, takes a lock for
//! the time of the choice.

mod endpoint;

pub use self::endpoint::{EndpointSnapshot, InFlight, Picked, Standing};

use self::endpoint::EndpointState;
use super::{BreakerCommand, BreakerState, Fault, FaultKind, HealthPolicy, OutlierPolicy, Policy, Rejected, Result};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How many endpoints a message lists.
const LISTED: usize = 4;

/// Who is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two drawn by lot, the one with fewer calls in flight.
    LeastLoaded,
}

/// How calls are spread over endpoints, and who is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalancePolicy {
    /// Who is next.
    pub balance: Balance,
    /// When an endpoint that fails is left out; `None`: never.
    pub outlier: Option<OutlierPolicy>,
    /// How endpoints are probed; `None`: not at all.
    pub health: Option<HealthPolicy>,
}

/// The endpoints of one external service with their live state. `T` is what is needed to call one.
#[derive(Debug)]
pub struct Balancer<T> {
    name: Arc<str>,
    members: ArcSwap<Members<T>>,
    /// Held by whoever changes the members.
    changing: Mutex<()>,
    next: AtomicUsize,
    ids: AtomicU64,
    /// The ids of those that are ejected, in the order in which they went.
    ejected: Mutex<Vec<u64>>,
    /// How many those are, for who would not take the lock.
    ejected_count: AtomicUsize,
}

/// The endpoints, and what holds for them.
#[derive(Debug)]
struct Members<T> {
    policy: BalancePolicy,
    endpoints: Vec<Arc<EndpointState<T>>>,
}

/// The endpoints as they were at one moment, to pick from.
pub struct Choice<'a, T> {
    balancer: &'a Balancer<T>,
    members: Arc<Members<T>>,
}

/// The endpoints that a call has tried.
///
/// A set of 64 places: with more endpoints than that, one that was not tried may be taken for one that was, which costs
/// it the preference and nothing else.
#[derive(Debug, Default)]
pub struct Tried(AtomicU64);

/// An attempt, as far as it concerns the endpoint that it goes to.
#[derive(Clone, Copy, Debug)]
pub struct AttemptAt<'a> {
    /// The policy of the edge that makes it: it says what counts as a failure.
    pub policy: &'a Policy,
    /// When the attempt is dropped.
    pub deadline: Instant,
}

// === impl Balance ===

impl Balance {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::RoundRobin, Self::LeastLoaded];

    /// The name that manifest and status use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Tried ===

impl Tried {
    fn note(&self, id: u64) {
        self.0.fetch_or(1 << (id % 64), Relaxed);
    }

    fn has(&self, id: u64) -> bool {
        self.0.load(Relaxed) & (1 << (id % 64)) != 0
    }

    fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

// === impl Balancer ===

impl<T> Balancer<T> {
    /// A balancer for the service `name`, which has no endpoint yet.
    pub fn new(name: impl Into<Arc<str>>, policy: BalancePolicy) -> Self {
        Self {
            name: name.into(),
            members: ArcSwap::from_pointee(Members { policy, endpoints: Vec::new() }),
            changing: Mutex::default(),
            next: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
            ejected: Mutex::default(),
            ejected_count: AtomicUsize::new(0),
        }
    }

    /// The service.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The policy.
    pub fn policy(&self) -> BalancePolicy {
        self.members.load().policy
    }

    /// The endpoints as they are now, to pick from.
    pub fn choice(&self) -> Choice<'_, T> {
        Choice { balancer: self, members: self.members.load_full() }
    }

    /// Counts a probe of the endpoint of this name: that it went well, or what was wrong with it.
    pub fn probed(&self, endpoint: &str, probe: std::result::Result<(), String>) {
        let members = self.members.load();
        // Gone meanwhile, it is nobody's any more.
        let Some(endpoint) = members.endpoints.iter().find(|known| &*known.name == endpoint) else { return };
        let (Some(policy), service) = (&members.policy.health, &*self.name) else { return };
        let problem = probe.as_ref().err().cloned().unwrap_or_default();
        match endpoint.health.record(policy, probe) {
            Some(true) => tracing::info!(service, endpoint = &*endpoint.name, "endpoint healthy"),
            Some(false) => tracing::warn!(service, endpoint = &*endpoint.name, problem, "endpoint unhealthy"),
            None => {}
        }
    }

    /// Does to the circuit breaker of the endpoint of this name what an operator says: forced open, it is out until it is
    /// reset. `None` if there is no such endpoint, `Some(None)` if it has no breaker, and else the endpoint as it is then.
    pub fn command(&self, endpoint: &str, command: BreakerCommand) -> Option<Option<EndpointSnapshot>> {
        // An endpoint that is changed while this goes on would have its breaker copied as it was.
        let _changing = self.changing();
        let found = self.members.load().endpoints.iter().find(|known| &*known.name == endpoint).cloned()?;
        let commanded = found.command(command);
        Some(commanded.and_then(|()| self.snapshot().into_iter().find(|snapshot| snapshot.endpoint == endpoint)))
    }

    /// The endpoints as people see them.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        let members = self.members.load();
        let standings = self.settle(&members);
        let has_health = members.policy.health.is_some();
        members
            .endpoints
            .iter()
            .zip(standings)
            .map(|(endpoint, (standing, _))| endpoint.snapshot(standing, has_health))
            .collect()
    }

    /// How each endpoint stands now, and whether it is one of those that may be out: who is ejected is decided here.
    fn settle(&self, members: &Members<T>) -> Vec<(Standing, bool)> {
        let (policy, endpoints) = (&members.policy, &members.endpoints);
        let mut ejected = self.lock();
        // Health and breakers go on while this looks at them, so each is asked once.
        let mut standings: Vec<_> = endpoints.iter().map(|endpoint| endpoint.standing()).collect();
        let out_anyway = |standing: &&Standing| matches!(standing, Standing::Unhealthy | Standing::TakenOut);
        let most_out = policy.outlier.map_or(0, |outlier| outlier.most_out(endpoints.len()));
        let room = most_out.saturating_sub(standings.iter().filter(out_anyway).count());
        ejected.retain(|id| {
            let at = endpoints.iter().position(|endpoint| endpoint.id == *id);
            at.is_some_and(|at| matches!(standings[at], Standing::Ejected | Standing::OnProbation))
        });
        ejected.truncate(room);
        for (endpoint, standing) in endpoints.iter().zip(&mut standings) {
            if *standing != Standing::Ejected || ejected.contains(&endpoint.id) {
                continue;
            }
            if ejected.len() < room {
                ejected.push(endpoint.id);
            } else {
                *standing = Standing::KeptIn;
            }
        }
        self.ejected_count.store(ejected.len(), Relaxed);
        let is_ejected = endpoints.iter().map(|endpoint| ejected.contains(&endpoint.id));
        standings.into_iter().zip(is_ejected).collect()
    }

    /// The place of the next one among these, of which there is at least one.
    fn choose(&self, balance: Balance, among: &[impl AsRef<EndpointState<T>>], is_first: bool) -> usize {
        match (among.len(), balance) {
            (0 | 1, _) => 0,
            // A second attempt takes nobody's turn, or the neighbour of one that fails would get the turns of both.
            (of, Balance::RoundRobin) if is_first => self.next.fetch_add(1, Relaxed) % of,
            (of, Balance::RoundRobin) => fastrand::usize(..of),
            (of, Balance::LeastLoaded) => {
                let one = fastrand::usize(..of);
                let other = (one + fastrand::usize(1..of)) % of;
                let load = |at: usize| among[at].as_ref().in_flight();
                if load(other) < load(one) { other } else { one }
            }
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // There is nothing in it.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        // Nothing that holds the lock can leave the list half changed.
        self.ejected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PartialEq> Balancer<T> {
    /// Puts these endpoints in place of the present ones, each by its name. One that was there before keeps its state;
    /// calls to one that is gone end where they are.
    pub fn replace(&self, endpoints: impl IntoIterator<Item = (String, T)>) {
        self.store(None, endpoints);
    }

    /// The same under another policy, in one step. Breakers keep their state as far as the new policy has a place for it
    /// ([`Breaker::with_policy`](super::Breaker::with_policy)), and so does health: without probes nobody is unhealthy.
    pub fn change(&self, policy: BalancePolicy, endpoints: impl IntoIterator<Item = (String, T)>) {
        self.store(Some(policy), endpoints);
    }

    fn store(&self, policy: Option<BalancePolicy>, endpoints: impl IntoIterator<Item = (String, T)>) {
        let _changing = self.changing();
        let before = self.members.load_full();
        let policy = policy.unwrap_or(before.policy);
        let state = |(name, target): (String, T)| match before.endpoints.iter().find(|known| *known.name == *name) {
            Some(known) if known.target == target && policy == before.policy => Arc::clone(known),
            Some(known) => Arc::new(known.changed(&self.name, target, &policy)),
            None => {
                let id = self.ids.fetch_add(1, Relaxed);
                Arc::new(EndpointState::new(id, &self.name, name.into(), target, &policy))
            }
        };
        let endpoints = endpoints.into_iter().map(state).collect();
        self.members.store(Arc::new(Members { policy, endpoints }));
    }
}

// === impl Choice ===

impl<T> Choice<'_, T> {
    /// What is needed to call each endpoint, with its name.
    pub fn targets(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.members.endpoints.iter().map(|endpoint| (&endpoint.name, &endpoint.target))
    }

    /// The endpoint for an attempt of a call that has tried these; it is then one of them.
    ///
    /// # Errors
    ///
    /// When all endpoints are out: `circuit-open` if one of them is ejected or taken out, and else `unreachable`. Neither counts against
    /// the edge.
    pub fn pick<'s>(&'s self, attempt: AttemptAt<'s>, tried: &Tried) -> Result<Picked<'s, T>> {
        let (balancer, Members { policy, endpoints }) = (self.balancer, &*self.members);
        let all_is_well = balancer.ejected_count.load(Relaxed) == 0
            && tried.is_empty()
            && endpoints.iter().all(|endpoint| endpoint.is_well());
        let picked = match all_is_well && !endpoints.is_empty() {
            true => endpoints[balancer.choose(policy.balance, endpoints, true)].enter(false, attempt),
            false => None,
        };
        let picked = picked.map_or_else(|| self.pick_with_care(attempt, tried), Ok)?;
        tried.note(picked.id());
        Ok(picked)
    }

    #[cold]
    fn pick_with_care<'s>(&'s self, attempt: AttemptAt<'s>, tried: &Tried) -> Result<Picked<'s, T>> {
        let (balancer, Members { policy, endpoints }) = (self.balancer, &*self.members);
        let standings = balancer.settle(&self.members);
        let is_first = tried.is_empty();
        let usable = endpoints.iter().zip(standings).filter(|(_, (standing, _))| standing.takes_calls());
        let candidates = usable.map(|(endpoint, (_, is_ejected))| Candidate { endpoint, is_ejected });
        let (again, new): (Vec<_>, Vec<_>) = candidates.partition(|candidate| tried.has(candidate.endpoint.id));
        for (mut candidates, is_first) in [(new, is_first), (again, false)] {
            while !candidates.is_empty() {
                let at = balancer.choose(policy.balance, &candidates, is_first);
                let Candidate { endpoint, is_ejected } = candidates.remove(at);
                // Another may have taken the last place of a probe meanwhile.
                if let Some(picked) = endpoint.enter(is_ejected, attempt) {
                    return Ok(picked);
                }
            }
        }
        Err(self.nobody(attempt))
    }

    /// Why no endpoint is in.
    fn nobody(&self, attempt: AttemptAt<'_>) -> Fault {
        let (name, endpoints) = (&self.balancer.name, &self.members.endpoints);
        if endpoints.is_empty() {
            return Fault::nowhere(format!("no address of `{name}` is known"));
        }
        let reasons: Vec<_> =
            endpoints.iter().take(LISTED).map(|endpoint| format!("{} {}", endpoint.name, endpoint.why())).collect();
        let more = match endpoints.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let message = format!("no endpoint of `{name}` is in: {}{more}", reasons.join(", "));
        let ejected = endpoints.iter().filter(|endpoint| endpoint.health.is_healthy());
        let after = |refusal: &Rejected| match refusal.state {
            // Nobody knows when its operator will.
            BreakerState::ForcedOpen => Duration::MAX,
            // Those on probation can't tell when they are back, but their probes end by the deadline of an edge.
            _ => refusal.retry_after.unwrap_or(attempt.policy.params().deadline),
        };
        let Some(first) = ejected.filter_map(|endpoint| endpoint.refusal()).min_by_key(after) else {
            return Fault::nowhere(message);
        };
        let mut fault = Fault::new(FaultKind::CircuitOpen, message);
        if first.state != BreakerState::ForcedOpen {
            fault = fault.with_retry_after(after(&first));
        }
        match first.reason {
            Some(reason) => fault.with_trip(reason),
            None => fault,
        }
    }
}

/// An endpoint that may be picked.
struct Candidate<'a, T> {
    endpoint: &'a Arc<EndpointState<T>>,
    is_ejected: bool,
}

impl<T> AsRef<EndpointState<T>> for Candidate<'_, T> {
    fn as_ref(&self) -> &EndpointState<T> {
        self.endpoint
    }
}

#[cfg(test)]
mod tests;
