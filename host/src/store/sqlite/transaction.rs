//! A transaction as its owner holds it: the turn to write, until it ends.
//!
//! What its owner asks is done on the async thread that asks, where that is surely short, and else on a thread that may
//! block. Either way the turn is locked meanwhile: what is asked at the same time waits in order, and when the owner no
//! longer waits, what was begun is done all the same.

use super::{
    refused,
    session::Session,
    turns::{Turn, Turns},
};
use crate::store::{
    Authority, Committed, Error, Rows, Savepoint, Settings, Statement,
    ending::{COMMANDS, Ending, full},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::{self, AbortHandle},
    time::{Instant, sleep_until},
};

/// A transaction; nobody else writes until it ends.
#[derive(Clone)]
pub(in crate::store) struct Transaction(Arc<Inner>);

struct Inner {
    /// None once it has ended.
    turn: Arc<Mutex<Option<Turn>>>,
    ending: Ending,
    deadline: Instant,
    settings: Arc<Settings>,
    /// How much of what its owner asks is not done yet.
    asked: AtomicUsize,
    /// Ends it at its deadline.
    clock: AbortHandle,
}

type Held = OwnedMutexGuard<Option<Turn>>;

/// Something that the owner asks.
struct Asked<'a>(&'a AtomicUsize);

// === impl Transaction ===

impl Transaction {
    /// Begins one, as soon as it is its turn.
    pub(super) async fn begin(turns: &Turns, settings: Arc<Settings>) -> Result<Self, Error> {
        let mut turn = turns.take().await.map_err(|why| refused(why, &settings))?;
        let deadline = Instant::now() + settings.transaction_time;
        if !turn.writer().begin_if_free(deadline)? {
            turn = aside(move || turn.writer().begin(deadline).map(|()| turn)).await??;
        }
        let turn = Arc::new(Mutex::new(Some(turn)));
        let ending = Ending::default();
        let clock = tokio::spawn({
            // NB: a transaction that its owner drops ends at once.
            let (turn, ending) = (Arc::downgrade(&turn), ending.clone());
            let reason = at_limit(&settings);
            async move {
                sleep_until(deadline).await;
                if let Some(turn) = turn.upgrade()
                    && let Some(turn) = turn.lock_owned().await.take()
                {
                    ending.set(reason);
                    drop(turn);
                }
            }
        });
        let (asked, clock) = (AtomicUsize::new(0), clock.abort_handle());
        Ok(Self(Arc::new(Inner { turn, ending, deadline, settings, asked, clock })))
    }

    pub(in crate::store) async fn query(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        self.run(move |session| session.query(&statement, authority)).await
    }

    pub(in crate::store) async fn execute(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        self.run(move |session| session.execute(&statement, authority)).await
    }

    /// All statements or none: those of a service, then the host's own.
    pub(in crate::store) async fn batch(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
    ) -> Result<Vec<u64>, Error> {
        self.run(move |session| session.batch(&statements, &host)).await
    }

    pub(in crate::store) async fn savepoint(&self, savepoint: Savepoint) -> Result<(), Error> {
        let (mut held, _asked) = self.hold().await?;
        self.turn(&mut held)?.writer().savepoint(savepoint)
    }

    pub(in crate::store) async fn commit(&self, then: Committed) -> Result<(), Error> {
        let (mut held, _asked) = self.hold().await?;
        let turn = self.turn(&mut held)?;
        let ending = self.0.ending.clone();
        let commit = move |held: &mut Held| {
            let Some(mut turn) = held.take() else { return Err(ending.closed()) };
            let result = turn.writer().commit_and(&then);
            ending.set(match &result {
                Ok(()) => "it was committed".into(),
                Err(error) => format!("it was rolled back, for its commit failed: {error}"),
            });
            result
        };
        if turn.writer().commits_quickly() { commit(&mut held) } else { aside(move || commit(&mut held)).await? }
    }

    pub(in crate::store) async fn rollback(&self) -> Result<(), Error> {
        let (mut held, _asked) = self.hold().await?;
        self.turn(&mut held)?;
        self.end(&mut held, "it was rolled back".into());
        Ok(())
    }

    async fn run<A, F>(&self, run: F) -> Result<A, Error>
    where
        A: Send + 'static,
        F: Fn(&Session) -> Result<A, Error> + Send + 'static,
    {
        let (mut held, _asked) = self.hold().await?;
        if let Some(outcome) = self.turn(&mut held)?.writer().run_if_short(&run) {
            self.look(&mut held);
            return outcome;
        }
        let this = self.clone();
        aside(move || {
            let outcome = this.turn(&mut held)?.writer().run(&run);
            this.look(&mut held);
            outcome
        })
        .await?
    }

    /// The turn, when all is done that was asked before.
    async fn hold(&self) -> Result<(Held, Asked<'_>), Error> {
        let asked = Asked::new(&self.0.asked)?;
        Ok((self.0.turn.clone().lock_owned().await, asked))
    }

    fn turn<'a>(&self, held: &'a mut Held) -> Result<&'a mut Turn, Error> {
        if Instant::now() >= self.0.deadline {
            self.end(held, at_limit(&self.0.settings));
        }
        held.as_mut().ok_or_else(|| self.0.ending.closed())
    }

    /// Looks whether a statement has ended it.
    fn look(&self, held: &mut Held) {
        if held.as_mut().is_some_and(|turn| !turn.writer().in_transaction()) {
            let in_time = Instant::now() < self.0.deadline;
            let reason = if in_time {
                "it was rolled back by a statement that failed".into()
            } else {
                at_limit(&self.0.settings)
            };
            self.end(held, reason);
        }
    }

    fn end(&self, held: &mut Held, reason: String) {
        if let Some(turn) = held.take() {
            // Before the turn is another's: whoever finds it gone looks here for the reason.
            self.0.ending.set(reason);
            drop(turn);
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("ending", &self.0.ending).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Drop for Inner {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    fn new(asked: &'a AtomicUsize) -> Result<Self, Error> {
        let this = Self(asked);
        // One is being done, and others wait.
        if asked.fetch_add(1, Ordering::Relaxed) > COMMANDS { Err(full()) } else { Ok(this) }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn at_limit(settings: &Settings) -> String {
    format!("it was rolled back at its time limit of {:?}", settings.transaction_time)
}

/// Does something where it may block.
async fn aside<A: Send + 'static>(what: impl FnOnce() -> A + Send + 'static) -> Result<A, Error> {
    task::spawn_blocking(what).await.map_err(|error| Error::Unavailable(error.to_string()))
}
