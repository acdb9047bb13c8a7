//! Requests from several connections at a time, one after the other on each, until told to stop.

use crate::{Answer, Connection, Failed};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Requests under way.
pub struct Load {
    workers: JoinSet<Report>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

/// How the requests went.
#[derive(Debug, Default)]
pub struct Report {
    /// All that were answered, with the time from the first byte sent to the last received.
    pub answers: Vec<(Answer, Duration)>,
    /// Those that were not.
    pub failures: Vec<Failed>,
}

// === impl Load ===

impl Load {
    /// Begins to `GET` a path from this many connections.
    pub(crate) fn start(address: SocketAddr, path: &str, connections: usize) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(work(address, path.to_owned(), stop.clone(), count.clone()));
        }
        Self { workers, stop, count }
    }

    /// How many requests have ended.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Lets each connection end the request that it is at, and says how all went: each was answered with 200.
    pub async fn all_served(self) -> Report {
        let report = self.stop().await;
        report.assert_all_served();
        report
    }

    async fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for report in self.workers.join_all().await {
            all.answers.extend(report.answers);
            all.failures.extend(report.failures);
        }
        all
    }
}

async fn work(address: SocketAddr, path: String, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> Report {
    let mut report = Report::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match ask(&mut connection, address, &path).await {
            Ok(answer) => report.answers.push((answer, began.elapsed())),
            Err(error) => {
                connection = None;
                report.failures.push(error);
            }
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    report
}

async fn ask(connection: &mut Option<Connection>, address: SocketAddr, path: &str) -> Result<Answer, Failed> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(address).await?),
    };
    open.get(path).await
}

// === impl Report ===

impl Report {
    fn assert_all_served(&self) {
        assert!(
            self.failures.is_empty(),
            "{} of {}: {:?}",
            self.failures.len(),
            self.answers.len(),
            self.failures.first()
        );
        let other: Vec<_> = self.answers.iter().filter(|(answer, _)| answer.status != 200).collect();
        assert!(other.is_empty(), "{} of {}: {:?}", other.len(), self.answers.len(), other.first());
    }

    /// The time that this share of the requests took at most: 0.5 for the median.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times: Vec<_> = self.answers.iter().map(|(_, time)| *time).collect();
        times.sort();
        let at = (times.len() as f64 * share) as usize;
        times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
