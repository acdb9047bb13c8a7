//! Services outside: their endpoints, and the requests that go there.
//!
//! The endpoints belong to the service and not to those who call it: what one caller finds out about an endpoint spares
//! the others the same, and a probe is sent once for all. So all edges that lead to a service share one [`External`],
//! each with its own breaker before it. An origin that a service may call by `outbound` is the same with one endpoint,
//! which is never out.

use super::{
    address::Address,
    authorities::Authorities,
    client::{HttpClient, Tls},
    dns::{Resolving, lookup, resolve},
    health,
    target::Target,
    validity::Validity,
};
use crate::{
    policy::{
        AttemptAt, BalancePolicy, Balancer, BreakerCommand, Ended, EndpointSnapshot, Fault, FaultKind, InFlight,
        Policy, Tried,
    },
    service::{Body, CallContext},
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::{
    Request, Response, Uri,
    body::{Body as _, Frame, Incoming, SizeHint},
};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::task::JoinHandle;

/// A service outside.
pub struct External {
    balancer: Arc<Balancer<Target>>,
    /// Why its name is not resolved.
    problem: Arc<ArcSwapOption<String>>,
    upkeep: Mutex<Upkeep>,
}

/// What keeps the endpoints up to date, as long as the settings are these.
struct Upkeep {
    /// `None` for an origin: there is nothing to keep.
    settings: Option<ExternalSettings>,
    client: HttpClient,
    validity: Validity,
    tasks: Vec<JoinHandle<()>>,
}

/// What an external service is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalSettings {
    /// Its name.
    pub name: String,
    /// Where its endpoints are.
    pub addresses: Addresses,
    /// How calls are spread over them.
    pub balance: BalancePolicy,
    /// What probes ask for, if there are any.
    pub probe: Option<String>,
    /// Who is trusted to say that an endpoint is what it should be; `None`: those of Mozilla's list.
    pub authorities: Option<Authorities>,
}

/// Where endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// At these origins.
    List(Vec<Uri>),
    /// At each address that the origin's host resolves to.
    Dns {
        /// The origin.
        origin: Uri,
        /// Its port.
        port: u16,
        /// How often its host is resolved.
        refresh: Duration,
    },
}

/// Other settings for a service, with all that they need from outside, so that nothing can go wrong any more.
#[must_use = "it has to be applied"]
pub struct ExternalChange {
    settings: ExternalSettings,
    found: Found,
}

/// The addresses that a name resolves to, or what is wrong; none where there is no name to resolve.
type Found = Result<Vec<SocketAddr>, String>;

/// An external service as people see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExternalSnapshot {
    /// Its name.
    pub name: String,
    /// How calls are spread.
    pub balance: String,
    /// What is wrong with the service as a whole: its name is not resolved.
    pub problem: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointSnapshot>,
}

// === impl Addresses ===

impl Addresses {
    async fn find(&self) -> Found {
        match self {
            Self::List(_) => Ok(Vec::new()),
            Self::Dns { origin, port, .. } => resolve(origin, *port, lookup).await,
        }
    }

    /// The origin whose host is resolved.
    fn resolved(&self) -> Option<&Uri> {
        match self {
            Self::List(_) => None,
            Self::Dns { origin, .. } => Some(origin),
        }
    }
}

// === impl ExternalSettings ===

impl ExternalSettings {
    fn tls(&self) -> Tls {
        // The certificate is the name's, and the connections go to addresses.
        let origin = self.addresses.resolved().filter(|origin| origin.scheme_str() == Some("https"));
        Tls { expected: origin.cloned(), authorities: self.authorities.clone() }
    }
}

// === impl External ===

impl External {
    /// An origin: one endpoint, which gets every call.
    pub fn origin(origin: &Uri, client: HttpClient) -> Arc<Self> {
        let name = origin.to_string();
        let external = Self::new(name.trim_end_matches('/'), BalancePolicy::default(), client.clone());
        external.balancer.replace(Address::of_origin(origin).map(|address| Target::named(address, &client)));
        Arc::new(external)
    }

    /// Begins to resolve and to probe. A name that can't be resolved now is tried again later.
    pub async fn start(settings: ExternalSettings, client: HttpClient) -> Arc<Self> {
        let external = Self::new(&settings.name, settings.balance, client);
        let found = settings.addresses.find().await;
        external.apply(ExternalChange { settings, found });
        Arc::new(external)
    }

    /// The service.
    pub fn name(&self) -> &Arc<str> {
        self.balancer.name()
    }

    fn new(name: &str, policy: BalancePolicy, client: HttpClient) -> Self {
        let upkeep = Upkeep { settings: None, client, validity: Validity::default(), tasks: Vec::new() };
        let balancer = Arc::new(Balancer::new(name, policy));
        Self { balancer, problem: Arc::default(), upkeep: Mutex::new(upkeep) }
    }

    /// Whether these are the present settings.
    pub fn goes_by(&self, settings: &ExternalSettings) -> bool {
        self.upkeep().settings.as_ref() == Some(settings)
    }

    /// Finds out all that other settings need; `None` if they are the present ones. Changes nothing yet.
    ///
    /// # Errors
    ///
    /// When the service is to have another name, and that can't be resolved.
    pub async fn prepare(&self, settings: ExternalSettings) -> Result<Option<ExternalChange>, String> {
        let before = self.upkeep().settings.clone();
        if before.as_ref() == Some(&settings) {
            return Ok(None);
        }
        let found = settings.addresses.find().await;
        let is_same = before.is_some_and(|before| before.addresses.resolved() == settings.addresses.resolved());
        match found {
            // With a name that was good so far it is the name server, and the endpoints stay.
            Err(problem) if !is_same => Err(problem),
            found => Ok(Some(ExternalChange { settings, found })),
        }
    }

    /// Goes by other settings from now on. Endpoints that stay keep what is known of them, and calls under way end where
    /// they are.
    pub fn apply(&self, change: ExternalChange) {
        let ExternalChange { settings, found } = change;
        let mut upkeep = self.upkeep();
        upkeep.end();
        let (client, validity, mut tasks) = (upkeep.client.with(settings.tls()), Validity::default(), Vec::new());
        match &settings.addresses {
            Addresses::List(origins) => {
                let addresses = origins.iter().filter_map(Address::of_origin);
                self.balancer.change(settings.balance, addresses.map(|address| Target::named(address, &client)));
                self.problem.store(None);
            }
            Addresses::Dns { origin, port, refresh } => {
                let resolving = Resolving {
                    origin: origin.clone(),
                    port: *port,
                    refresh: *refresh,
                    client: client.clone(),
                    balancer: self.balancer.clone(),
                    problem: self.problem.clone(),
                    validity: validity.clone(),
                };
                match found {
                    Ok(addresses) => {
                        self.balancer.change(settings.balance, resolving.targets(&addresses));
                        self.problem.store(None);
                    }
                    Err(problem) => {
                        let present = self.balancer.choice();
                        let present =
                            present.targets().map(|(_, target)| Target::named(target.address.clone(), &client));
                        self.balancer.change(settings.balance, present);
                        resolving.take(Err(problem));
                    }
                }
                tasks.push(tokio::spawn(resolving.run(lookup)));
            }
        }
        if let (Some(policy), Some(path)) = (settings.balance.health, settings.probe.clone()) {
            let (balancer, validity) = (self.balancer.clone(), validity.clone());
            let probe = move |target| health::ask(target, path.clone());
            tasks.push(tokio::spawn(async move {
                health::run(balancer, validity, policy, probe).await;
            }));
        }
        *upkeep = Upkeep { settings: Some(settings), client, validity, tasks };
    }

    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        // Whoever holds the lock and fails has ended what was there, and what it would have put in its place can be put
        // there by the next.
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to one of the endpoints. `policy` is that of the edge it comes by, and `tried` says where the same
    /// call has been.
    ///
    /// # Errors
    ///
    /// `unreachable` when no connection could be made, so that nothing was sent, or all endpoints are unhealthy;
    /// `circuit-open` when all are out and one of them is ejected; `trapped` when the connection broke later.
    pub async fn http(
        &self,
        context: &CallContext,
        request: Request<Body>,
        policy: &Policy,
        tried: &Tried,
    ) -> Result<Response<Body>, Fault> {
        let choice = self.balancer.choice();
        let attempt = AttemptAt { policy, deadline: context.deadline.at };
        let picked = choice.pick(attempt, tried).map_err(|fault| self.explain(fault))?;
        let request = picked.target().direct(request)?;
        match picked.target().send(request).await {
            Ok(response) => {
                let in_flight = picked.end(Ended::Status(response.status().as_u16()));
                Ok(response.map(|body| Answer::body(body, in_flight)))
            }
            Err(error) => {
                let kind = if error.nothing_sent { FaultKind::Unreachable } else { FaultKind::Trapped };
                let (caller, endpoint) = (&context.caller, picked.name().clone());
                picked.end(Ended::Fault(kind));
                let message = format!("`{caller}` could not get an answer from {endpoint}: {}", error.message);
                Err(Fault::new(kind, message))
            }
        }
    }

    /// Does to the circuit breaker of an endpoint what an operator says; see [`Balancer::command`].
    pub fn command(&self, endpoint: &str, command: BreakerCommand) -> Option<Option<EndpointSnapshot>> {
        self.balancer.command(endpoint, command)
    }

    /// The service as it is now.
    pub fn snapshot(&self) -> ExternalSnapshot {
        ExternalSnapshot {
            name: self.balancer.name().to_string(),
            balance: self.balancer.policy().balance.to_string(),
            problem: self.problem.load().as_ref().map(ToString::to_string),
            endpoints: self.balancer.snapshot(),
        }
    }

    /// Where there is no endpoint at all, the name server knows why.
    fn explain(&self, fault: Fault) -> Fault {
        match self.problem.load().as_ref() {
            Some(problem) if fault.kind() == FaultKind::Unreachable => {
                Fault::nowhere(format!("{}; {problem}", fault.message()))
            }
            _ => fault,
        }
    }
}

// === impl Upkeep ===

impl Upkeep {
    fn end(&mut self) {
        self.validity.end();
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.end();
    }
}

/// The body of an answer: as long as it streams, the call is in flight.
struct Answer {
    body: Incoming,
    in_flight: Option<InFlight>,
}

// === impl Answer ===

impl Answer {
    fn body(body: Incoming, in_flight: Option<InFlight>) -> Body {
        if body.is_end_stream() { Body::empty() } else { Body::stream(Self { body, in_flight }) }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.in_flight = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::HealthPolicy;
    use tokio::time::timeout;

    fn settings(addresses: Addresses) -> ExternalSettings {
        let health = Some(HealthPolicy::default());
        let balance = BalancePolicy { health, ..BalancePolicy::default() };
        ExternalSettings { name: "pay".into(), addresses, balance, probe: Some("/health".into()), authorities: None }
    }

    fn dns(origin: &str) -> Addresses {
        Addresses::Dns { origin: origin.parse().unwrap(), port: 1, refresh: Duration::from_secs(30) }
    }

    fn endpoints(external: &External) -> Vec<String> {
        external.snapshot().endpoints.into_iter().map(|endpoint| endpoint.endpoint).collect()
    }

    #[tokio::test]
    async fn probing_and_resolving_end_with_the_service() {
        let external = External::start(settings(dns("http://127.0.0.1:1")), HttpClient::new()).await;
        assert_eq!(external.upkeep().tasks.len(), 2);
        assert_eq!(endpoints(&external), ["http://127.0.0.1:1"]);
        let balancer = Arc::downgrade(&external.balancer);
        drop(external);
        let gone = async {
            while balancer.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("both tasks have let go of it");
    }

    #[tokio::test]
    async fn other_settings_are_taken_over_whole() {
        let list = Addresses::List(vec!["http://127.0.0.1:1".parse().unwrap(), "http://127.0.0.1:2".parse().unwrap()]);
        let external = External::start(settings(list.clone()), HttpClient::new()).await;
        assert!(external.prepare(settings(list)).await.unwrap().is_none(), "nothing is new");
        let validity = external.upkeep().validity.clone();

        let other =
            ExternalSettings { probe: None, balance: BalancePolicy::default(), ..settings(dns("http://[::1]:1")) };
        let change = external.prepare(other.clone()).await.unwrap().expect("it is new");
        assert_eq!(endpoints(&external), ["http://127.0.0.1:1", "http://127.0.0.1:2"], "it is not applied yet");
        external.apply(change);
        assert_eq!(endpoints(&external), ["http://[::1]:1"]);
        assert_eq!(external.upkeep().tasks.len(), 1, "nothing probes any more");
        validity.while_valid(|| panic!("what the old tasks find out counts no more"));
        assert!(external.prepare(other).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_that_can_not_be_resolved_is_not_taken_over() {
        let external = External::start(settings(dns("http://nobody.invalid:1")), HttpClient::new()).await;
        assert!(external.snapshot().problem.is_some(), "at the start it is tried again later");
        let other = external.prepare(settings(dns("http://no-one.invalid:1"))).await;
        assert!(other.err().is_some_and(|problem| problem.contains("no-one.invalid can't be resolved")));
        // The name is the same: it is no worse than it was.
        let refreshed = Addresses::Dns {
            origin: "http://nobody.invalid:1".parse().unwrap(),
            port: 1,
            refresh: Duration::from_secs(1),
        };
        external.apply(external.prepare(settings(refreshed)).await.unwrap().expect("it is new"));
        assert!(external.snapshot().problem.is_some());
        let list = Addresses::List(vec!["http://127.0.0.1:1".parse().unwrap()]);
        external.apply(external.prepare(settings(list)).await.unwrap().expect("it is new"));
        assert_eq!((external.snapshot().problem, endpoints(&external)), (None, vec!["http://127.0.0.1:1".to_owned()]));
    }
}
