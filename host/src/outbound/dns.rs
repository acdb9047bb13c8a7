//! The endpoints of an external service by its name: each address that the name resolves to is one.
//!
//! Resolved by the operating system, so by whatever it is configured with, again and again: it does not tell for how long
//! an answer holds. While it has none, the last good one stays, because an outage of the name server is none of the
//! service. An empty answer counts as none: whoever takes a service down leaves it without endpoints by stopping them.

use super::{address::Address, client::HttpClient, target::Target, validity::Validity};
use crate::policy::{Backoff, Balancer};
use arc_swap::ArcSwapOption;
use hyper::Uri;
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};

/// The operating system may take much longer, and nobody waits for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause after an answer that was none; it doubles up to the usual one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Which part of the time between two lookups is left to chance, so that hosts that started together don't ask together.
const JITTER: f64 = 0.1;

/// Keeps the endpoints of one service up to date.
pub(super) struct Resolving {
    pub(super) origin: Uri,
    pub(super) port: u16,
    pub(super) refresh: Duration,
    pub(super) client: HttpClient,
    pub(super) balancer: Arc<Balancer<Target>>,
    /// What is wrong, while it is.
    pub(super) problem: Arc<ArcSwapOption<String>>,
    pub(super) validity: Validity,
}

/// The addresses of an origin's host, in order and none twice, or what is wrong.
pub(super) async fn resolve<F>(
    origin: &Uri,
    port: u16,
    lookup: impl Fn(String, u16) -> F,
) -> Result<Vec<SocketAddr>, String>
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    // The brackets of an IPv6 address belong to the URI.
    let host = origin.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match timeout(LOOKUP_TIMEOUT, lookup(host.clone(), port)).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(format!("{host} has no address")),
        Ok(Ok(mut addresses)) => {
            addresses.sort_unstable();
            addresses.dedup();
            Ok(addresses)
        }
        Ok(Err(error)) => Err(format!("{host} can't be resolved: {error}")),
        Err(_) => Err(format!("{host} can't be resolved: no answer within {LOOKUP_TIMEOUT:?}")),
    }
}

// === impl Resolving ===

impl Resolving {
    /// Resolves the name, once.
    pub(super) async fn once<F>(&self, lookup: impl Fn(String, u16) -> F)
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let answer = resolve(&self.origin, self.port, lookup).await;
        self.validity.while_valid(|| self.take(answer));
    }

    /// The endpoints at these addresses.
    pub(super) fn targets(&self, addresses: &[SocketAddr]) -> impl Iterator<Item = (String, Target)> {
        let addresses = addresses.iter().filter_map(|address| Address::resolved(&self.origin, *address));
        addresses.map(|address| Target::named(address, &self.client))
    }

    /// Goes on with an answer, or without one.
    pub(super) fn take(&self, answer: Result<Vec<SocketAddr>, String>) {
        let (service, host) = (&**self.balancer.name(), self.origin.host().unwrap_or_default());
        match answer {
            Ok(addresses) => {
                self.balancer.replace(self.targets(&addresses));
                if self.problem.swap(None).is_some() {
                    tracing::info!(service, host, endpoints = addresses.len(), "the name is resolved again");
                }
            }
            Err(problem) => {
                // Said once: it may stay so for days.
                if self.problem.swap(Some(Arc::new(problem.clone()))).is_none() {
                    let endpoints = self.balancer.choice().targets().count();
                    tracing::warn!(service, problem, endpoints, "the endpoints known last stay");
                }
            }
        }
    }

    /// Resolves the name again and again. Whoever calls this has done so once.
    pub(super) async fn run<F>(self, lookup: impl Fn(String, u16) -> F)
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let after_good = Backoff { first: self.refresh, max: self.refresh, jitter: JITTER };
        let after_bad = Backoff { first: FIRST_PAUSE.min(self.refresh), ..after_good };
        let mut bad = u32::from(self.problem.load().is_some());
        loop {
            sleep(if bad == 0 { after_good.after(1) } else { after_bad.after(bad) }).await;
            self.once(&lookup).await;
            bad = if self.problem.load().is_none() { 0 } else { bad.saturating_add(1) };
        }
    }
}

/// Asks the operating system.
pub(super) async fn lookup(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::BalancePolicy;
    use std::sync::{Mutex, atomic::AtomicUsize, atomic::Ordering::Relaxed};
    use tokio::time::{Instant, advance};

    fn resolving(origin: &str, port: u16) -> Resolving {
        Resolving {
            origin: origin.parse().unwrap(),
            port,
            refresh: Duration::from_secs(30),
            client: HttpClient::new(),
            balancer: Arc::new(Balancer::new("pay", BalancePolicy::default())),
            problem: Arc::default(),
            validity: Validity::default(),
        }
    }

    fn names(balancer: &Balancer<Target>) -> Vec<String> {
        balancer.choice().targets().map(|(name, _)| name.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_is_an_endpoint_and_the_last_good_answer_stays() {
        let resolving = resolving("http://pay.example.com:8080", 8080);
        let at = |addresses: &[&str]| Ok(addresses.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>());
        let once = async |answer: io::Result<Vec<SocketAddr>>| {
            let answer = Mutex::new(Some(answer));
            let lookup = |host: String, port| {
                assert_eq!((&*host, port), ("pay.example.com", 8080));
                std::future::ready(answer.lock().unwrap().take().unwrap())
            };
            resolving.once(lookup).await;
            let problem = resolving.problem.load_full();
            (names(&resolving.balancer), problem.map(|problem| problem.to_string()))
        };
        let two = vec!["http://10.0.0.1:8080".to_owned(), "http://10.0.0.2:8080".to_owned()];
        let answer = at(&["10.0.0.2:8080", "10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(once(answer).await, (two.clone(), None));
        let error = io::Error::other("the server has a bad day");
        let said = "pay.example.com can't be resolved: the server has a bad day";
        assert_eq!(once(Err(error)).await, (two.clone(), Some(said.into())));
        assert_eq!(once(at(&[])).await, (two, Some("pay.example.com has no address".into())));
        let answer = at(&["10.0.0.3:8080"]);
        assert_eq!(once(answer).await, (vec!["http://10.0.0.3:8080".to_owned()], None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_hangs_is_given_up() {
        let (resolving, began) = (resolving("http://[::1]:80", 80), Instant::now());
        resolving
            .once(|host, _| {
                assert_eq!(host, "::1");
                std::future::pending()
            })
            .await;
        assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
        assert_eq!(**resolving.problem.load().as_ref().unwrap(), "::1 can't be resolved: no answer within 5s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_after_the_end_changes_nothing() {
        let resolving = resolving("http://pay", 80);
        let validity = resolving.validity.clone();
        let lookup = |_, _| {
            validity.end();
            std::future::ready(Ok(vec!["10.0.0.1:80".parse().unwrap()]))
        };
        resolving.once(lookup).await;
        assert!(names(&resolving.balancer).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_asked_again_sooner() {
        let resolving = resolving("http://pay", 80);
        let (asked, problem) = (Arc::new(AtomicUsize::new(0)), resolving.problem.clone());
        problem.store(Some(Arc::new("it is down".into())));
        let count = asked.clone();
        let task = tokio::spawn(resolving.run(move |_, _| {
            let number = count.fetch_add(1, Relaxed);
            let good = Ok(vec!["10.0.0.1:80".parse().unwrap()]);
            std::future::ready(if number < 2 { Err(io::Error::other("down")) } else { good })
        }));
        let wait = async |seconds| {
            tokio::task::yield_now().await;
            advance(Duration::from_secs(seconds)).await;
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            asked.load(Relaxed)
        };
        // After one, two and four seconds.
        assert_eq!(wait(1).await, 1);
        assert_eq!(wait(2).await, 2);
        assert_eq!(wait(4).await, 3);
        assert!(problem.load().is_none());
        // And then as usual.
        assert_eq!(wait(26).await, 3);
        assert_eq!(wait(5).await, 4);
        task.abort();
    }
}
