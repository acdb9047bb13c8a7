//! Reads the entries of a subscription into the dispatcher's inbox.
//!
//! What others left pending in a partition comes first, in its order, and then what is new. Reading and waiting are two
//! commands. Waiting is a plain `XREAD`, which takes nothing; reading is a script that looks at the lease in the same step
//! and does not wait. A blocking `XREADGROUP` would do both, and hand events to a host that has lost its lease, or to a
//! connection that is cut, after the next host has looked for what is pending: they would stay there, or come out of order.

use super::{
    entry,
    group::{Group, millis},
    holdings::{Progress, Source, Step},
    ledger::{Held, Letter},
    scripts,
};
use crate::events::{
    DeadReason,
    archive::Burial,
    dispatcher::{Closing, Delivery},
    room::Slot,
};
use ::redis::{FromRedisValue, RedisResult, Value, aio, cmd, from_redis_value};
use std::sync::{Arc, atomic::AtomicBool};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, timeout},
};

/// How many entries to read at once.
const BATCH: usize = 64;
/// How many pending entries to look at in one go.
const PAGE: usize = 256;
/// How long Redis waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(1);

/// Reads no more than there is room for.
pub(super) struct Reader {
    group: Arc<Group>,
    inbox: mpsc::UnboundedSender<Delivery<Held>>,
    closing: Closing,
    connection: Option<aio::MultiplexedConnection>,
    /// Whether an answer may have been lost.
    in_doubt: bool,
    /// Which source comes first in the next read.
    first: usize,
    /// When to compare with Redis what is pending.
    compare: Instant,
}

/// An entry: its id and its fields, nil where it is gone.
type Entry = (String, Option<Value>);

/// The inbox is closed.
struct Closed;

// === impl Reader ===

impl Reader {
    pub(super) fn new(group: Arc<Group>, inbox: mpsc::UnboundedSender<Delivery<Held>>, closing: Closing) -> Self {
        Self { group, inbox, closing, connection: None, in_doubt: true, first: 0, compare: Instant::now() }
    }

    pub(super) async fn run(mut self) {
        let mut closing = self.closing.clone();
        // What Redis has handed out when this is cut off stays pending, and the next who has the lease finds it.
        tokio::select! {
            _ = closing.changed() => {}
            () = self.read_on() => {}
        }
    }

    async fn read_on(&mut self) {
        let mut failed = 0;
        loop {
            match self.turn().await {
                Ok(Ok(())) => failed = 0,
                Ok(Err(Closed)) => return,
                Err(err) => {
                    failed += 1;
                    self.connection = None;
                    self.in_doubt = true;
                    self.group.recover(&err, failed).await;
                }
            }
        }
    }

    async fn turn(&mut self) -> RedisResult<Result<(), Closed>> {
        let group = Arc::clone(&self.group);
        if self.connection.is_none() {
            self.connection = Some(group.redis.reader(BLOCK).await?);
        }
        if self.in_doubt {
            group.fence_off().await?;
            group.holdings().look_again();
            self.in_doubt = false;
        }
        if Instant::now() >= self.compare {
            self.compare().await?;
            self.compare = Instant::now() + group.lease / 3;
        }
        let steps = group.holdings().plan(Instant::now());
        if steps.is_empty() {
            // The keeper's next heartbeat may bring something.
            let _ = timeout(BLOCK, group.changed.notified()).await;
            return Ok(Ok(()));
        }
        let (mut fresh, mut moved) = (Vec::new(), false);
        for step in steps {
            match &step.progress {
                Progress::Pending(from) => {
                    moved = true;
                    if self.take(&step, from).await?.is_err() {
                        return Ok(Err(Closed));
                    }
                }
                Progress::New(_) => fresh.push(step),
            }
        }
        match self.read(&fresh).await? {
            Ok(read) if read || moved => Ok(Ok(())),
            Ok(_) => self.wait(&fresh).await.map(Ok),
            Err(Closed) => Ok(Err(Closed)),
        }
    }

    /// Takes over one page of what is pending in a source.
    async fn take(&mut self, step: &Step, from: &str) -> RedisResult<Result<(), Closed>> {
        let group = Arc::clone(&self.group);
        let stream = group.stream(step.source);
        let mut query = cmd("XPENDING");
        query.arg(stream).arg(&*group.service).arg(from).arg("+").arg(PAGE);
        let page = match self.query::<Vec<(String, String, u64, u32)>>(&query).await {
            Err(err) if err.code() == Some("NOGROUP") => {
                if step.source.is_again() {
                    // Made with its first entry.
                    group.holdings().advance(step, Progress::New("0-0".into()));
                    return Ok(Ok(()));
                }
                return Err(err);
            }
            page => page?,
        };
        let next = page.last().filter(|_| page.len() == PAGE).map(|(last, ..)| format!("({last}"));
        let pending: Vec<(String, u32)> = {
            let holdings = group.holdings();
            let unknown = page.into_iter().filter(|(id, ..)| !holdings.knows(step.source, id));
            unknown.map(|(id, _, _, tries)| (id, tries)).collect()
        };
        let mut read_up_to = None;
        let mut rest = &pending[..];
        while !rest.is_empty() || read_up_to.is_none() {
            let slots = group.room.slots(BATCH.min(rest.len().max(1))).await;
            let (batch, after) = rest.split_at(slots.len().min(rest.len()));
            rest = after;
            let mut take = scripts::TAKE.on([group.leases(), stream]);
            take.arg(&group.host).arg(group.fence()).arg(&*group.service).arg(step.source.partition());
            for (id, tries) in batch {
                take.arg(id).arg(tries);
            }
            let answer: Vec<Value> = self.query(&take).await?;
            let mut answer = answer.into_iter();
            match answer.next() {
                Some(Value::Int(0)) => {}
                Some(Value::Int(1)) => {
                    group.holdings().lose(step.source);
                    group.beat().await?;
                    return Ok(Ok(()));
                }
                _ => {
                    group.restore().await;
                    return Ok(Ok(()));
                }
            }
            read_up_to = Some(from_redis_value::<String>(answer.next().unwrap_or(Value::Nil))?);
            let entries: Vec<(String, u32, Option<Value>)> = from_redis_value(answer.next().unwrap_or(Value::Nil))?;
            if !entries.is_empty() {
                tracing::info!(topic = %group.topic, service = %group.service, stream, entries = entries.len(),
                    "took up events that were left behind");
            }
            for ((id, tries, fields), slot) in entries.into_iter().zip(slots) {
                if self.hand_over(step, id, fields, slot, tries + 1, false).await.is_err() {
                    return Ok(Err(Closed));
                }
            }
        }
        let progress = match next {
            Some(next) => Progress::Pending(next),
            None => Progress::New(read_up_to.unwrap_or_else(|| "0-0".into())),
        };
        group.holdings().advance(step, progress);
        Ok(Ok(()))
    }

    /// Reads what is new, and says whether there was anything.
    async fn read(&mut self, steps: &[Step]) -> RedisResult<Result<bool, Closed>> {
        if steps.is_empty() {
            return Ok(Ok(false));
        }
        let group = Arc::clone(&self.group);
        let mut slots = group.room.slots(BATCH).await;
        self.first = (self.first + 1) % steps.len();
        let (before, from) = steps.split_at(self.first);
        let steps: Vec<&Step> = from.iter().chain(before).collect();
        let streams = steps.iter().map(|step| group.stream(step.source));
        let mut read = scripts::READ.on([group.leases()].into_iter().chain(streams));
        read.arg(&group.host).arg(group.fence()).arg(&*group.service);
        read.arg(slots.len()).arg(slots.len().div_ceil(4)).arg(u8::from(!group.exact));
        for step in &steps {
            read.arg(step.source.partition());
        }
        let answers: Vec<(usize, Value)> = self.query(&read).await?;
        let mut any = false;
        for (at, answer) in answers {
            let Some(step) = steps.get(at) else { continue };
            match answer {
                Value::Int(1) => {
                    any = true;
                    group.holdings().lose(step.source);
                    group.beat().await?;
                }
                Value::Int(_) if step.source.is_again() => {}
                Value::Int(_) => {
                    any = true;
                    group.restore().await;
                }
                entries => {
                    any = true;
                    let entries: Vec<Entry> = from_redis_value(entries)?;
                    if let Some((last, _)) = entries.last() {
                        let cursor = Progress::New(last.clone());
                        group.holdings().advance(step, cursor);
                    }
                    for (id, fields) in entries {
                        let Some(slot) = slots.pop() else { break };
                        if self.hand_over(step, id, fields, slot, 1, !group.exact).await.is_err() {
                            return Ok(Err(Closed));
                        }
                    }
                }
            }
        }
        Ok(Ok(any))
    }

    /// Gives an entry to the dispatcher.
    async fn hand_over(
        &self,
        step: &Step,
        id: String,
        fields: Option<Value>,
        slot: Slot,
        attempt: u32,
        counted: bool,
    ) -> Result<(), Closed> {
        let (group, source, generation) = (&self.group, step.source, step.generation);
        if !group.holdings().hold(source, generation, &id) {
            return Ok(());
        }
        let event = match entry::decode(&group.topic, fields) {
            Ok(event) => Arc::new(event),
            Err(reason) => {
                group.meter.rejected();
                tracing::error!(topic = %group.topic, entry = id, service = %group.service, %reason,
                    "event is dead: the entry of the Redis stream is not an event");
                let burial = Burial { reason: DeadReason::Malformed, error: reason.to_string(), attempts: 0 };
                group.finish(source, &id, Some(Letter::new(burial, None))).await;
                group.holdings().let_go(source, generation, &id);
                return Ok(());
            }
        };
        let place = group.room.enter(slot, &event.data).await.ok_or(Closed)?;
        let (counted, trying) = (AtomicBool::new(counted), AtomicBool::new(false));
        let receipt = Held { source, generation, id, event: Arc::clone(&event), counted, trying, _place: place };
        self.inbox.send(Delivery { event, attempt, receipt }).map_err(|_| Closed)
    }

    /// Waits for something to read.
    async fn wait(&mut self, steps: &[Step]) -> RedisResult<()> {
        let group = Arc::clone(&self.group);
        let mut wait = cmd("XREAD");
        let block = BLOCK.min(self.compare.saturating_duration_since(Instant::now())).max(Duration::from_millis(1));
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(millis(block)).arg("STREAMS");
        for step in steps {
            wait.arg(group.stream(step.source));
        }
        for step in steps {
            let Progress::New(cursor) = &step.progress else { continue };
            wait.arg(cursor);
        }
        let come: Option<Value> = tokio::select! {
            come = self.query(&wait) => come?,
            () = group.changed.notified() => {
                // The connection is of no use before the time is over, and this took nothing.
                self.connection = None;
                return Ok(());
            }
        };
        if come.is_some_and(|it| it != Value::Nil) && !self.read(steps).await?.is_ok_and(|read| read) {
            // The group has read it otherwise than by this host; its position is to be asked for.
            group.holdings().look_again();
        }
        Ok(())
    }

    /// Compares what is pending with what is in hand, and counts what is unread. There is more pending where others read
    /// for the group, by hand for example.
    async fn compare(&mut self) -> RedisResult<()> {
        let group = Arc::clone(&self.group);
        let sources: Vec<Source> = group.sources().collect();
        let mut account = scripts::ACCOUNT.on(sources.iter().map(|source| group.stream(*source)));
        account.arg(&*group.service);
        let counts: Vec<i64> = self.query(&account).await?;
        let mut holdings = group.holdings();
        let ours: Vec<Source> = holdings.plan(Instant::now()).iter().map(|step| step.source).collect();
        let (mut unread, mut stray) = (Some(0), false);
        for (source, counts) in sources.iter().zip(counts.chunks_exact(2)) {
            let (pending, lag) = (usize::try_from(counts[0]), u64::try_from(counts[1]));
            match (&pending, source.is_again()) {
                (Err(_), true) => {}
                _ => unread = unread.zip(lag.ok()).map(|(sum, lag)| sum + lag),
            }
            stray |= ours.contains(source) && pending.is_ok_and(|it| it > holdings.known(*source));
        }
        if stray {
            holdings.look_again();
        }
        drop(holdings);
        group.meter.set_behind(unread);
        Ok(())
    }

    async fn query<T: FromRedisValue>(&mut self, command: &::redis::Cmd) -> RedisResult<T> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.group.redis.reader(BLOCK).await?),
        };
        let answer = command.query_async(connection).await;
        if answer.is_ok() {
            self.group.redis.recovered();
        }
        answer
    }
}
