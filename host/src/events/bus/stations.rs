//! The tasks of a transport. They end with it, and those of one subscription also before.

use super::{super::dispatcher::Closing, Name};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout_at},
};

/// All tasks of a transport.
pub(super) struct Stations {
    closing: watch::Sender<Option<Instant>>,
    tasks: Mutex<JoinSet<()>>,
    posts: Mutex<HashMap<Name, Post>>,
}

/// What one subscription has to be told to end.
pub(super) struct Post {
    closing: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
}

/// The tasks of one subscription, which end together.
pub(super) type Crew = JoinSet<()>;

// === impl Stations ===

impl Stations {
    pub(super) fn new() -> Self {
        Self { closing: watch::Sender::new(None), tasks: Mutex::default(), posts: Mutex::default() }
    }

    pub(super) fn closing(&self) -> Closing {
        self.closing.subscribe()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Runs a task that has nothing to finish when the bus closes.
    pub(super) fn spawn_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut closing = self.closing();
        self.spawn(async move {
            tokio::select! {
                _ = closing.changed() => {}
                () = task => {}
            }
        });
    }

    /// Runs what serves one subscription, which must not be served already. It is told when to close.
    pub(super) fn man<F>(&self, name: Name, serve: impl FnOnce(Closing) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closing = watch::Sender::new(None);
        let task = tokio::spawn(serve(closing.subscribe()));
        self.posts().insert(name, Post { closing, task });
    }

    /// What tells those who serve a subscription when to close.
    pub(super) fn closing_of(&self, topic: &Arc<str>, service: &Arc<str>) -> Option<Closing> {
        Some(self.posts().get(&(Arc::clone(topic), Arc::clone(service)))?.closing.subscribe())
    }

    /// Tells those who serve a subscription to close, and ends them if they have not by the deadline. Says whether there
    /// were any.
    pub(super) async fn leave(&self, topic: &str, service: &str, deadline: Instant) -> bool {
        let Some(post) = self.take(topic, service) else { return false };
        post.close(deadline).await;
        true
    }

    /// Those who serve a subscription, to be told to close.
    pub(super) fn take(&self, topic: &str, service: &str) -> Option<Post> {
        self.posts().remove(&(Arc::from(topic), Arc::from(service)))
    }

    /// Tells all tasks to close, and ends those that have not by the deadline.
    pub(super) async fn close(&self, deadline: Instant) {
        self.closing.send_replace(Some(deadline));
        let posts: Vec<_> = std::mem::take(&mut *self.posts()).into_values().collect();
        for post in &posts {
            post.closing.send_replace(Some(deadline));
        }
        let mut late = 0;
        for post in posts {
            late += usize::from(!post.end(deadline).await);
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            late += tasks.len();
            tasks.shutdown().await;
        }
        if late > 0 {
            tracing::warn!(tasks = late, "event deliveries were cut off at the end of the grace period");
        }
    }

    fn posts(&self) -> MutexGuard<'_, HashMap<Name, Post>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Post ===

impl Post {
    /// Tells them to close, and ends them if they have not by the deadline.
    pub(super) async fn close(self, deadline: Instant) {
        self.closing.send_replace(Some(deadline));
        self.end(deadline).await;
    }

    /// Waits for the end; whether it came by itself.
    async fn end(mut self, deadline: Instant) -> bool {
        let ended = timeout_at(deadline, &mut self.task).await.is_ok();
        if !ended {
            self.task.abort();
            let _ = (&mut self.task).await;
        }
        ended
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until all of a crew have ended.
pub(super) async fn ended(mut crew: Crew) {
    while let Some(ended) = crew.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a task that serves a subscription panicked");
        }
    }
}
