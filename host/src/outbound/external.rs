//! Services outside: their endpoints, and the requests that go there.
//!
//! The endpoints belong to the service and not to those who call it: what one caller finds out about an endpoint spares
//! the others the same, and a probe is sent once for all. So all edges that lead to a service share one [`External`],
//! each with its own breaker before it. An origin that a service may call by `outbound` is the same with one endpoint,
//! which is never out.

use super::{
    address::Address,
    client::HttpClient,
    dns::{Resolving, lookup},
    health,
};
use crate::{
    policy::{AttemptAt, BalancePolicy, Balancer, Ended, EndpointSnapshot, Fault, FaultKind, InFlight, Policy, Tried},
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
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::task::JoinHandle;

/// A service outside.
pub struct External {
    balancer: Arc<Balancer<Address>>,
    client: HttpClient,
    /// Why its name is not resolved.
    problem: Arc<ArcSwapOption<String>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What an external service is told to be.
#[derive(Clone, Debug)]
pub struct ExternalSettings {
    /// Its name.
    pub name: String,
    /// Where its endpoints are.
    pub addresses: Addresses,
    /// How calls are spread over them.
    pub balance: BalancePolicy,
    /// What probes ask for, if there are any.
    pub probe: Option<String>,
}

/// Where endpoints are.
#[derive(Clone, Debug)]
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

// === impl External ===

impl External {
    /// An origin: one endpoint, which gets every call.
    pub fn origin(origin: &Uri, client: HttpClient) -> Arc<Self> {
        let balancer = Balancer::new(origin.to_string().trim_end_matches('/'), BalancePolicy::default());
        balancer.replace(Address::of_origin(origin).map(|address| (address.name(), address)));
        Arc::new(Self { balancer: Arc::new(balancer), client, problem: Arc::default(), tasks: Vec::new() })
    }

    /// Begins to resolve and to probe. A name that can't be resolved now is tried again later.
    pub async fn start(settings: ExternalSettings, client: HttpClient) -> Arc<Self> {
        let balancer = Arc::new(Balancer::new(settings.name, settings.balance));
        let (mut client, problem, mut tasks) = (client, Arc::default(), Vec::new());
        match settings.addresses {
            Addresses::List(origins) => {
                let addresses = origins.iter().filter_map(Address::of_origin);
                balancer.replace(addresses.map(|address| (address.name(), address)));
            }
            Addresses::Dns { origin, port, refresh } => {
                if origin.scheme_str() == Some("https") {
                    // The certificate is the name's, and the connections go to addresses.
                    client = HttpClient::expecting(&origin);
                }
                let (balancer, problem) = (balancer.clone(), Arc::clone(&problem));
                let resolving = Resolving { origin, port, refresh, balancer, problem };
                resolving.once(lookup).await;
                tasks.push(tokio::spawn(resolving.run(lookup)));
            }
        }
        if let (Some(policy), Some(path)) = (settings.balance.health, settings.probe) {
            let (balancer, client) = (balancer.clone(), client.clone());
            let probe = move |address| health::ask(client.clone(), address, path.clone());
            tasks.push(tokio::spawn(async move {
                health::run(balancer, policy, probe).await;
            }));
        }
        Arc::new(Self { balancer, client, problem, tasks })
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
        match self.client.send(request).await {
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

impl Drop for External {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The body of an answer: as long as it streams, the call is in flight.
struct Answer {
    body: Incoming,
    in_flight: Option<InFlight<Address>>,
}

// === impl Answer ===

impl Answer {
    fn body(body: Incoming, in_flight: Option<InFlight<Address>>) -> Body {
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

    #[tokio::test]
    async fn probing_and_resolving_end_with_the_service() {
        let health = Some(HealthPolicy::default());
        let settings = ExternalSettings {
            name: "pay".into(),
            addresses: Addresses::Dns {
                origin: "http://127.0.0.1:1".parse().unwrap(),
                port: 1,
                refresh: Duration::from_secs(30),
            },
            balance: BalancePolicy { health, ..BalancePolicy::default() },
            probe: Some("/health".into()),
        };
        let external = External::start(settings, HttpClient::new()).await;
        assert_eq!(external.tasks.len(), 2);
        assert_eq!(external.snapshot().endpoints[0].endpoint, "http://127.0.0.1:1");
        let balancer = Arc::downgrade(&external.balancer);
        drop(external);
        let gone = async {
            while balancer.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("both tasks have let go of it");
    }
}
