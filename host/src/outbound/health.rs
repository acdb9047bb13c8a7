//! Health probes of the endpoints of one external service.
//!
//! One task asks all endpoints at a time, a bounded number of them at once, and each answer has its time. Between two
//! rounds a tenth of the interval is left to chance, so that many hosts don't probe the same endpoint in step.

use super::{target::Target, validity::Validity};
use crate::{
    policy::{Balancer, HealthPolicy},
    service::Body,
};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request,
    header::{HeaderValue, USER_AGENT},
};
use std::{convert::Infallible, future::Future, sync::Arc};
use tokio::time::{Instant, sleep_until, timeout};

/// How many endpoints are asked at once.
const AT_ONCE: usize = 64;
/// Up to here an answer is read, so that its connection can be used again.
const LONGEST_ANSWER: usize = 64 << 10;
/// Which part of the interval is left to chance.
const JITTER: f64 = 0.1;

/// Probes until it is dropped. `probe` asks one endpoint, and says what is wrong with it.
pub(super) async fn run<F>(
    balancer: Arc<Balancer<Target>>,
    validity: Validity,
    policy: HealthPolicy,
    probe: impl Fn(Target) -> F + Clone,
) -> Infallible
where
    F: Future<Output = Result<(), String>>,
{
    let params = *policy.params();
    loop {
        let began = Instant::now();
        let endpoints: Vec<_> =
            balancer.choice().targets().map(|(name, target)| (name.clone(), target.clone())).collect();
        let asking = stream::iter(endpoints).for_each_concurrent(AT_ONCE, |(name, target)| {
            let (probe, balancer, validity) = (&probe, &balancer, &validity);
            async move {
                let answer = timeout(params.timeout, probe(target)).await;
                let late = |_| Err(format!("no answer within {:?}", params.timeout));
                validity.while_valid(|| balancer.probed(&name, answer.unwrap_or_else(late)));
            }
        });
        asking.await;
        sleep_until(began + params.interval.mul_f64(1.0 - JITTER * fastrand::f64())).await;
    }
}

/// Asks an endpoint for `path`; 2xx is well.
pub(super) async fn ask(target: Target, path: String) -> Result<(), String> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().map_err(|error| format!("{path} is no path: {error}"))?;
    let agent = HeaderValue::from_static(concat!("wharf/", env!("CARGO_PKG_VERSION"), " health"));
    request.headers_mut().insert(USER_AGENT, agent);
    let request = target.direct(request).map_err(|fault| fault.message().to_owned())?;
    let response = target.send(request).await.map_err(|error| error.message)?;
    let status = response.status();
    // What can't be read to its end costs the connection, and says nothing of the endpoint.
    let _ = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
    if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outbound::{HttpClient, address::Address},
        policy::{BalancePolicy, HealthParams},
    };
    use std::{
        sync::{Mutex, atomic::AtomicUsize, atomic::Ordering::Relaxed},
        time::Duration,
    };
    use tokio::time::advance;

    async fn pass(time: Duration) {
        tokio::task::yield_now().await;
        advance(time).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_out_after_its_time_and_holds_up_nobody() {
        let interval = Duration::from_secs(5);
        let policy = HealthPolicy::try_new(HealthParams { interval, ..HealthParams::default() }).unwrap();
        let policy_of_all = BalancePolicy { health: Some(policy), ..BalancePolicy::default() };
        let balancer = Arc::new(Balancer::new("pay", policy_of_all));
        let addresses = ["http://a", "http://b"].map(|origin| Address::of_origin(&origin.parse().unwrap()).unwrap());
        let client = HttpClient::new();
        balancer.replace(addresses.map(|address| Target::named(address, &client)));
        let (asked, hangs) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new("http://a")));
        let task = tokio::spawn({
            let (asked, hangs) = (asked.clone(), hangs.clone());
            let probe = move |target: Target| {
                asked.fetch_add(1, Relaxed);
                let is_hanging = target.address.name() == *hangs.lock().unwrap();
                async move {
                    if is_hanging {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
            };
            run(balancer.clone(), Validity::default(), policy, probe)
        });
        let healthy = || balancer.snapshot().iter().map(|it| it.health.as_ref().unwrap().healthy).collect::<Vec<_>>();
        pass(Duration::ZERO).await;
        assert_eq!((asked.load(Relaxed), healthy()), (2, vec![true, true]));
        pass(Duration::from_secs(1)).await;
        assert_eq!(healthy(), [false, true]);
        assert_eq!(balancer.snapshot()[0].reason.as_deref(), Some("no answer within 1s"));
        // No sooner than the interval, less the part of chance.
        pass(interval.mul_f64(1.0 - JITTER) - Duration::from_millis(1100)).await;
        assert_eq!(asked.load(Relaxed), 2);
        *hangs.lock().unwrap() = "nobody";
        pass(Duration::from_secs(1)).await;
        assert_eq!((asked.load(Relaxed), healthy()), (4, vec![false, true]));
        pass(interval).await;
        assert_eq!((asked.load(Relaxed), healthy()), (6, vec![true, true]));
        task.abort();
    }
}
