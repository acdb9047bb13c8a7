//! Whose turn it is, where several hosts have one database and one of them is to do something.
//!
//! The lease is the only row of a table with the name of its holder and a number, which the holder counts up every second. Another takes it
//! once it has seen the number stand still for [`SILENT`], by its own clock: so clocks need not agree. A holder that could
//! not count up for [`HELD`] stops by itself before that, and one that ends gives the lease back.
//!
//! A host that was killed and started again knows its own name in it, and that nobody counts under that one any more: there
//! is one host at a time with a data folder. So it takes the lease at once. Each run has a name of its own beside, so that
//! of two hosts which take themselves for one, as with a copied data folder, the one that started first gives way at its
//! next beat.

use super::{Database, Error, Statement, Value};
use tokio::time::{Duration, Instant};

/// How often the holder counts up, and others look.
const BEAT: Duration = Duration::from_secs(1);

/// For how long it is the holder's after it has counted up.
const HELD: Duration = Duration::from_secs(3);

/// After how long without a beat another takes it. What its holder was about to do then has the difference to end.
const SILENT: Duration = Duration::from_secs(6);

/// One host's part in it.
pub(crate) struct Lease {
    database: Database,
    /// Its table.
    table: &'static str,
    name: String,
    /// How the names of this host's runs begin, until the first look: whoever has such a name then was killed.
    earlier: Option<String>,
    /// What was seen last, and since when it is so.
    seen: Option<(Turn, Instant)>,
    held_until: Option<Instant>,
    next: Instant,
}

/// Who has it, and how often that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Empty where nobody has.
    pub holder: String,
    pub beat: i64,
}

// === impl Lease ===

impl Lease {
    /// Makes the table of this name, where there is none.
    pub async fn prepare(database: &Database, table: &str) -> Result<(), Error> {
        let made = format!(
            "CREATE TABLE IF NOT EXISTS {table} (one BIGINT PRIMARY KEY, holder TEXT NOT NULL, beat BIGINT NOT NULL)"
        );
        database.host_execute(Statement { sql: made, params: Vec::new() }).await?;
        let row = format!("INSERT INTO {table} (one, holder, beat) VALUES (1, '', 0) ON CONFLICT DO NOTHING");
        database.host_execute(Statement { sql: row, params: Vec::new() }).await.map(drop)
    }

    /// One of the table of this name. `host`: what this host was called when it ran before, if that is known.
    pub fn new(database: Database, table: &'static str, host: Option<&str>) -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let earlier = host.map(|host| format!("{host}/"));
        let name = format!("{}{run}", earlier.as_deref().unwrap_or_default());
        Self { database, table, name, earlier, seen: None, held_until: None, next: Instant::now() }
    }

    pub fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// Until when it is held, unless it is counted up before.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// When there is something to do for it.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Counts up, or looks whether it is to be had.
    pub async fn beat(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.next = now + BEAT;
        let turn = match self.seen.take() {
            Some((turn, since)) if turn.holder == self.name => {
                if self.take(&turn, now).await? {
                    return Ok(());
                }
                self.look(Some((turn, since))).await?
            }
            seen => self.look(seen).await?,
        };
        let left = self.earlier.take().is_some_and(|earlier| turn.holder.starts_with(&earlier));
        let free = turn.holder.is_empty() || turn.holder == self.name || left;
        let silent = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= SILENT);
        if free || silent {
            self.take(&turn, now).await?;
        }
        Ok(())
    }

    async fn look(&mut self, seen: Option<(Turn, Instant)>) -> Result<Turn, Error> {
        let turn = Turn::read(&self.database, self.table).await?;
        let since = match seen {
            Some((before, since)) if before == turn => since,
            _ => Instant::now(),
        };
        self.seen = Some((turn.clone(), since));
        if turn.holder != self.name {
            self.held_until = None;
        }
        Ok(turn)
    }

    async fn take(&mut self, turn: &Turn, asked: Instant) -> Result<bool, Error> {
        let taken = turn.take(&self.database, self.table, &self.name).await?;
        if taken {
            let turn = Turn { holder: self.name.clone(), beat: turn.beat + 1 };
            self.seen = Some((turn, Instant::now()));
            self.held_until = Some(asked + HELD);
        }
        Ok(taken)
    }

    /// Gives it back, if it is held.
    pub async fn release(&mut self) -> Result<(), Error> {
        if self.held_until.take().is_some() {
            let sql = format!("UPDATE {} SET holder = '', beat = beat + 1 WHERE one = 1 AND holder = $1", self.table);
            self.database.host_execute(Statement { sql, params: vec![Value::Text(self.name.clone())] }).await?;
        }
        Ok(())
    }
}

// === impl Turn ===

impl Turn {
    /// Whose turn it is.
    pub async fn read(database: &Database, table: &str) -> Result<Self, Error> {
        let sql = format!("SELECT holder, beat FROM {table} WHERE one = 1");
        let rows = database.host_query(Statement { sql, params: Vec::new() }).await?;
        let mut row = rows.rows.into_iter().next().unwrap_or_default().into_iter();
        match (row.next(), row.next()) {
            (Some(Value::Text(holder)), Some(Value::Integer(beat))) => Ok(Self { holder, beat }),
            _ => Err(Error::Invalid(format!("the table `{table}` has lost its row; restart the host to make it"))),
        }
    }

    /// Takes the turn, where it is still as it was seen; says whether it was.
    pub async fn take(&self, database: &Database, table: &str, name: &str) -> Result<bool, Error> {
        let sql =
            format!("UPDATE {table} SET holder = $1, beat = beat + 1 WHERE one = 1 AND holder = $2 AND beat = $3");
        let params = vec![Value::Text(name.into()), Value::Text(self.holder.clone()), Value::Integer(self.beat)];
        Ok(database.host_execute(Statement { sql, params }).await? == 1)
    }
}
