//! A unit of work: all that one call writes, in one transaction that the host ends.
//!
//! The code of the service does not know of it. Its transaction begins with the call's first write, or its first `begin`;
//! reads before that go their usual way. From then on every statement of the call is part of it: single ones, batches,
//! and transactions of the service's own, which are savepoints in it. It begins with a statement of the host's, which
//! claims something in the database: where another has it, the unit is [`Ended::Claimed`], and nothing of it is written.

use super::{
    Committed, Database, Savepoint, Transaction,
    binding::{Constraint, Error, Rows, Statement},
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, timeout},
};

/// How long a statement waits for a transaction that the same call has open. A unit has no longer anyway.
const TURN: Duration = Duration::from_secs(5);

/// All that one call writes. Clones are the same unit; dropped, it is rolled back.
#[derive(Clone)]
pub struct Unit(Arc<Inner>);

struct Inner {
    database: Database,
    claim: Statement,
    state: tokio::sync::Mutex<State>,
    /// The right to write: of one statement, or of one transaction of the service's.
    turn: Arc<Semaphore>,
    /// A [`Nest`].
    nest: AtomicU8,
    /// How many things there were to do after the commit when the nest was begun.
    then_before: AtomicUsize,
}

enum State {
    Unbegun,
    Begun(Transaction),
    Claimed,
    /// Why statements are refused.
    Ended(&'static str),
}

/// Whether the unit's savepoint is set.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Nest {
    None,
    Open,
    /// Its owner dropped it: what it did is to be undone before anything else is done.
    Abandoned,
}

/// How a unit ended that was to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All of it is written.
    Committed,
    /// Another has what it claims: nothing of it is written.
    Claimed,
}

/// A transaction of a service's within a unit. Clones are the same one; dropped without an end, it is undone.
#[derive(Clone)]
pub(crate) struct Nested(Arc<NestedInner>);

struct NestedInner {
    unit: Unit,
    ended: AtomicBool,
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

/// Where the statements of a call go that belong to no transaction of its own.
#[derive(Clone)]
pub(crate) enum Access {
    /// Each into a transaction of its own.
    Database(Database),
    /// All into one.
    Unit(Unit),
}

/// A transaction in a service's hands.
#[derive(Clone)]
pub(crate) enum Held {
    Own(Transaction),
    Nested(Nested),
}

// === impl Unit ===

impl Unit {
    /// A unit of work in this database, which begins with the host's own statement `claim`: an `INSERT` that fails by its
    /// key where another has claimed the same.
    pub(crate) fn new(database: Database, claim: Statement) -> Self {
        Self(Arc::new(Inner {
            database,
            claim,
            state: tokio::sync::Mutex::new(State::Unbegun),
            turn: Arc::new(Semaphore::new(1)),
            nest: AtomicU8::new(Nest::None as u8),
            then_before: AtomicUsize::new(0),
        }))
    }

    /// Writes all of it, the claim also where there is nothing else.
    pub(crate) async fn commit(&self) -> Result<Ended, Error> {
        let mut state = self.0.state.lock().await;
        match std::mem::replace(&mut *state, State::Ended("it was committed")) {
            State::Begun(transaction) => {
                // A transaction that the service left open is one that it did not commit.
                let committed = match self.undo_nest(&transaction, |nest| nest != Nest::None).await {
                    Ok(()) => transaction.commit().await,
                    Err(error) => Err(error),
                };
                match committed {
                    Ok(()) => Ok(Ended::Committed),
                    Err(error) => {
                        *state = State::Ended("its commit failed");
                        Err(error)
                    }
                }
            }
            State::Unbegun => match self.0.database.host_execute(self.0.claim.clone()).await {
                Ok(_) => Ok(Ended::Committed),
                Err(Error::Constraint((Constraint::Unique, _))) => {
                    *state = State::Claimed;
                    Ok(Ended::Claimed)
                }
                Err(error) => {
                    *state = State::Unbegun;
                    Err(error)
                }
            },
            State::Claimed => {
                *state = State::Claimed;
                Ok(Ended::Claimed)
            }
            State::Ended(reason) => {
                *state = State::Ended(reason);
                Err(ended(reason))
            }
        }
    }

    /// Writes nothing of it. Says whether another has what it claims, as far as it has tried.
    pub(crate) async fn rollback(&self) -> bool {
        let mut state = self.0.state.lock().await;
        match std::mem::replace(&mut *state, State::Ended("it was rolled back")) {
            State::Begun(transaction) => {
                // Ended already, by its time limit or a statement that took all with it: then it is undone too.
                let _ = transaction.rollback().await;
                false
            }
            State::Claimed => {
                *state = State::Claimed;
                true
            }
            State::Unbegun | State::Ended(_) => false,
        }
    }

    async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        if only_reads(&statement.sql) {
            let state = self.0.state.lock().await;
            if matches!(*state, State::Unbegun) {
                drop(state);
                return self.0.database.query(statement).await;
            }
            drop(state);
            // NB: without waiting for its turn. A call may read beside a transaction that it has open itself.
            return self.transaction().await?.query(statement).await;
        }
        let _turn = self.turn().await?;
        self.transaction().await?.query(statement).await
    }

    async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        let _turn = self.turn().await?;
        self.transaction().await?.execute(statement).await
    }

    async fn batch_then(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
        then: Committed,
    ) -> Result<Vec<u64>, Error> {
        self.0.database.check_batch(statements.len() + host.len())?;
        let _turn = self.turn().await?;
        let transaction = self.transaction().await?;
        let changed = transaction.batch(statements, host).await?;
        transaction.then().append(&then);
        Ok(changed)
    }

    async fn begin(&self) -> Result<Nested, Error> {
        let turn = self.turn().await?;
        let transaction = self.transaction().await?;
        transaction.savepoint(Savepoint::Set).await?;
        self.0.then_before.store(transaction.then().len(), SeqCst);
        self.set_nest(Nest::Open);
        let turn = Mutex::new(Some(turn));
        Ok(Nested(Arc::new(NestedInner { unit: self.clone(), ended: AtomicBool::new(false), turn })))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        match timeout(TURN, self.0.turn.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(Error::Closed("the unit of work has ended".into())),
            Err(_) => Err(Error::Busy(format!(
                "waited {TURN:?} for a transaction that the same call has open: end it first, or use it for this too"
            ))),
        }
    }

    /// The transaction, begun if it was not.
    async fn transaction(&self) -> Result<Transaction, Error> {
        let mut state = self.0.state.lock().await;
        match &*state {
            State::Begun(transaction) => {
                let transaction = transaction.clone();
                self.undo_nest(&transaction, |nest| nest == Nest::Abandoned).await?;
                Ok(transaction)
            }
            State::Unbegun => {
                let transaction = self.0.database.begin().await?;
                match transaction.host_execute(self.0.claim.clone()).await {
                    Ok(_) => {
                        *state = State::Begun(transaction.clone());
                        Ok(transaction)
                    }
                    Err(Error::Constraint((Constraint::Unique, _))) => {
                        *state = State::Claimed;
                        Err(claimed())
                    }
                    Err(error) => Err(error),
                }
            }
            State::Claimed => Err(claimed()),
            State::Ended(reason) => Err(ended(reason)),
        }
    }

    async fn undo_nest(&self, transaction: &Transaction, which: fn(Nest) -> bool) -> Result<(), Error> {
        if which(self.nest()) {
            transaction.savepoint(Savepoint::Undo).await?;
            transaction.then().truncate(self.0.then_before.load(SeqCst));
            self.set_nest(Nest::None);
        }
        Ok(())
    }

    fn nest(&self) -> Nest {
        match self.0.nest.load(SeqCst) {
            0 => Nest::None,
            1 => Nest::Open,
            _ => Nest::Abandoned,
        }
    }

    fn set_nest(&self, nest: Nest) {
        self.0.nest.store(nest as u8, SeqCst);
    }
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Unit").field(&self.0.database).finish()
    }
}

fn claimed() -> Error {
    Error::Closed("what this call does is done already, by another call: nothing of it is written".into())
}

fn ended(reason: &str) -> Error {
    Error::Closed(format!("all that this call writes is one transaction, and {reason}"))
}

/// Whether a text surely changes nothing: what is in doubt belongs to the unit.
fn only_reads(sql: &str) -> bool {
    let mut words = sql.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let mut words = words.by_ref().filter(|word| !word.is_empty());
    sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
        // PostgreSQL makes a table by the one, and locks rows by the other.
        && !words.any(|word| ["into", "for"].iter().any(|doubt| word.eq_ignore_ascii_case(doubt)))
}

// === impl Nested ===

impl Nested {
    async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        self.transaction().await?.query(statement).await
    }

    async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.transaction().await?.execute(statement).await
    }

    async fn commit(&self) -> Result<(), Error> {
        self.end(Savepoint::Keep).await
    }

    async fn rollback(&self) -> Result<(), Error> {
        self.end(Savepoint::Undo).await
    }

    async fn end(&self, how: Savepoint) -> Result<(), Error> {
        let transaction = self.transaction().await?;
        let unit = &self.0.unit;
        transaction.savepoint(how).await?;
        if how == Savepoint::Undo {
            transaction.then().truncate(unit.0.then_before.load(SeqCst));
        }
        unit.set_nest(Nest::None);
        self.0.ended.store(true, SeqCst);
        drop(self.0.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    async fn transaction(&self) -> Result<Transaction, Error> {
        if self.0.ended.load(SeqCst) {
            return Err(Error::Closed("the transaction has ended".into()));
        }
        self.0.unit.transaction().await
    }
}

impl Drop for NestedInner {
    fn drop(&mut self) {
        // NB: before the turn, a field of this, goes to another.
        if !self.ended.load(SeqCst) {
            self.unit.set_nest(Nest::Abandoned);
        }
    }
}

// === impl Access ===

impl Access {
    pub(crate) async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        match self {
            Self::Database(database) => database.query(statement).await,
            Self::Unit(unit) => unit.query(statement).await,
        }
    }

    pub(crate) async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        match self {
            Self::Database(database) => database.execute(statement).await,
            Self::Unit(unit) => unit.execute(statement).await,
        }
    }

    pub(crate) async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<u64>, Error> {
        match self {
            Self::Database(database) => database.batch(statements).await,
            Self::Unit(unit) => unit.batch_then(statements, Vec::new(), Committed::default()).await,
        }
    }

    pub(crate) async fn begin(&self) -> Result<Held, Error> {
        match self {
            Self::Database(database) => database.begin().await.map(Held::Own),
            Self::Unit(unit) => unit.begin().await.map(Held::Nested),
        }
    }

    /// As [`Database::batch_then`].
    pub(crate) async fn batch_then(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
        then: Committed,
    ) -> Result<Vec<u64>, Error> {
        match self {
            Self::Database(database) => database.batch_then(statements, host, then).await,
            Self::Unit(unit) => unit.batch_then(statements, host, then).await,
        }
    }
}

// === impl Held ===

impl Held {
    pub(crate) async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        match self {
            Self::Own(transaction) => transaction.query(statement).await,
            Self::Nested(nested) => nested.query(statement).await,
        }
    }

    pub(crate) async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        match self {
            Self::Own(transaction) => transaction.execute(statement).await,
            Self::Nested(nested) => nested.execute(statement).await,
        }
    }

    pub(crate) async fn commit(&self) -> Result<(), Error> {
        match self {
            Self::Own(transaction) => transaction.commit().await,
            Self::Nested(nested) => nested.commit().await,
        }
    }

    pub(crate) async fn rollback(&self) -> Result<(), Error> {
        match self {
            Self::Own(transaction) => transaction.rollback().await,
            Self::Nested(nested) => nested.rollback().await,
        }
    }

    /// Runs a statement of the host's own in it. What is in `then` is done when all of the transaction is committed.
    pub(crate) async fn host_execute_then(&self, host: Statement, then: Committed) -> Result<(), Error> {
        let transaction = match self {
            Self::Own(transaction) => transaction.clone(),
            Self::Nested(nested) => nested.transaction().await?,
        };
        transaction.host_execute(host).await?;
        transaction.then().append(&then);
        Ok(())
    }
}
