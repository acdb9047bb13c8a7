use super::*;
use crate::policy::{Fault, FaultKind};
use jiff::{ToSpan, tz::TimeZone};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
};
use tokio::{task::AbortHandle, time::Instant};

/// A bus that several hosts share, as far as schedules know it, and the wall clock of all of them.
#[derive(Default)]
struct World {
    last: Mutex<Option<Timestamp>>,
    fired: Mutex<Vec<Arc<Event>>>,
    tries: AtomicI64,
    is_down: AtomicBool,
    /// By how many seconds the wall clock was set.
    set_by: AtomicI64,
}

struct Host(Arc<World>);

/// A task that ends with the test.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Firing for Host {
    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move {
            self.0.tries.fetch_add(1, Relaxed);
            self.0.answers()?;
            let mut last = self.0.last.lock().unwrap();
            let is_new = last.is_none_or(|last| last < at);
            if is_new {
                *last = Some(at);
                self.0.fired.lock().unwrap().push(event);
            }
            Ok(is_new)
        })
    }

    fn last_fired<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async move {
            self.0.answers()?;
            Ok(*self.0.last.lock().unwrap())
        })
    }
}

// === impl World ===

impl World {
    fn last_fired(at: &str) -> Arc<Self> {
        let world = Self::default();
        *world.last.lock().unwrap() = Some(at.parse().unwrap());
        Arc::new(world)
    }

    fn answers(&self) -> Result<(), PublishError> {
        let down = self.is_down.load(Relaxed);
        if down { Err(Fault::new(FaultKind::Unreachable, "it is away").into()) } else { Ok(()) }
    }

    /// Starts a host at this time of day.
    fn host(self: &Arc<Self>, schedule: Schedule, at: &str) -> Task {
        let (world, at, started) = (self.clone(), at.parse::<Timestamp>().unwrap(), Instant::now());
        let now =
            move || at + SignedDuration::try_from(started.elapsed()).unwrap() + world.set_by.load(Relaxed).seconds();
        let scheduler = Scheduler::new(vec![schedule], Host(self.clone()), now);
        Task(tokio::spawn(scheduler.run()).abort_handle())
    }

    /// For which times it fired.
    fn fired(&self) -> Vec<String> {
        self.fired.lock().unwrap().iter().map(|event| event.time.to_string()).collect()
    }
}

fn schedule(cron: &str, zone: &str) -> Schedule {
    let cron = Cron::parse(cron, TimeZone::get(zone).unwrap()).unwrap();
    Schedule { topic: "report.due".into(), cron, subject: None, data: None }
}

async fn pass(minutes: u64) {
    sleep(Duration::from_secs(60 * minutes)).await;
}

#[tokio::test(start_paused = true)]
async fn it_fires_at_its_times_from_now_on() {
    let world = Arc::new(World::default());
    let _host = world.host(schedule("*/10 * * * *", "UTC"), "2026-11-24T12:00:00Z");
    pass(9).await;
    assert!(world.fired().is_empty(), "what was before the first start is not made up for");
    pass(25).await;
    assert_eq!(world.fired(), ["2026-11-24T12:10:00Z", "2026-11-24T12:20:00Z", "2026-11-24T12:30:00Z"]);
    let event = world.fired.lock().unwrap()[0].clone();
    assert_eq!(event.id, "report.due@2026-11-24T12:10:00Z");
    assert_eq!(&*event.source, "/schedules/report.due");
    assert_eq!(&event.data[..], br#"{"scheduledAt":"2026-11-24T12:10:00Z"}"#);
}

#[tokio::test(start_paused = true)]
async fn it_carries_what_the_manifest_says() {
    let world = Arc::new(World::default());
    let data = Some(Bytes::from_static(br#"{"kind":"daily"}"#));
    let schedule = Schedule { subject: Some("daily".into()), data, ..schedule("* * * * *", "UTC") };
    assert_eq!(schedule.validate(), Ok(()));
    let _host = world.host(schedule.clone(), "2026-11-24T12:00:30Z");
    pass(1).await;
    let event = world.fired.lock().unwrap()[0].clone();
    assert_eq!((event.subject.as_deref(), &event.data[..]), (Some("daily"), &br#"{"kind":"daily"}"#[..]));
    assert!(Schedule { data: Some("{".into()), ..schedule.clone() }.validate().is_err());
    assert!(Schedule { subject: Some("".into()), ..schedule }.validate().is_err());
}

#[tokio::test(start_paused = true)]
async fn of_what_was_missed_the_latest_is_made_up_for() {
    let world = World::last_fired("2026-11-20T03:00:00Z");
    let _host = world.host(schedule("0 3 * * *", "UTC"), "2026-11-24T12:00:00Z");
    pass(1).await;
    assert_eq!(world.fired(), ["2026-11-24T03:00:00Z"]);
    pass(24 * 60).await;
    assert_eq!(world.fired(), ["2026-11-24T03:00:00Z", "2026-11-25T03:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_nothing_was_missed_fires_nothing() {
    let world = World::last_fired("2026-11-24T03:00:00Z");
    let _host = world.host(schedule("0 3 * * *", "UTC"), "2026-11-24T12:00:00Z");
    pass(60).await;
    assert!(world.fired().is_empty());
}

#[tokio::test(start_paused = true)]
async fn several_hosts_fire_once() {
    let world = World::last_fired("2026-11-24T11:00:00Z");
    let hosts: Vec<_> = (0..3).map(|_| world.host(schedule("0 * * * *", "UTC"), "2026-11-24T12:30:00Z")).collect();
    pass(60).await;
    assert_eq!(world.fired(), ["2026-11-24T12:00:00Z", "2026-11-24T13:00:00Z"]);
    // Whoever looked after the first saw that 12:00 was made up for.
    assert_eq!(world.tries.load(Relaxed), 1 + 3, "each of them tried 13:00");
    drop(hosts);
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_refuses_is_tried_again_until_the_next_is_due() {
    let world = World::last_fired("2026-11-24T12:00:00Z");
    let _host = world.host(schedule("0 * * * *", "UTC"), "2026-11-24T12:59:00Z");
    sleep(Duration::from_secs(1)).await;
    world.is_down.store(true, Relaxed);
    pass(10).await;
    let tries = world.tries.load(Relaxed);
    assert!((5..60).contains(&tries), "{tries} tries in nine minutes");
    world.is_down.store(false, Relaxed);
    pass(2).await;
    assert_eq!(world.fired(), ["2026-11-24T13:00:00Z"], "late, but with the time it was scheduled for");
    world.is_down.store(true, Relaxed);
    pass(180).await;
    world.is_down.store(false, Relaxed);
    pass(2).await;
    assert_eq!(world.fired(), ["2026-11-24T13:00:00Z", "2026-11-24T16:00:00Z"], "the later took the earlier's place");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_at_the_start_delays_and_does_no_more() {
    let world = World::last_fired("2026-11-23T03:00:00Z");
    world.is_down.store(true, Relaxed);
    let _host = world.host(schedule("0 3 * * *", "UTC"), "2026-11-24T02:55:00Z");
    pass(10).await;
    assert!(world.fired().is_empty());
    world.is_down.store(false, Relaxed);
    pass(2).await;
    assert_eq!(world.fired(), ["2026-11-24T03:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn daylight_saving_time_neither_doubles_nor_loses_a_firing() {
    for (day, expected) in [
        // In spring 02:30 does not exist: it is 01:00 UTC when the clock goes from 02:00 to 03:00.
        ("2026-03-28T12:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        // In autumn it is twice.
        ("2026-10-24T12:00:00Z", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
    ] {
        let world = Arc::new(World::default());
        let _host = world.host(schedule("30 2 * * *", "Europe/Berlin"), day);
        pass(48 * 60).await;
        assert_eq!(world.fired(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_fires_the_latest_and_one_set_back_nothing_twice() {
    let world = Arc::new(World::default());
    let _host = world.host(schedule("0 * * * *", "UTC"), "2026-11-24T12:30:00Z");
    pass(31).await;
    assert_eq!(world.fired(), ["2026-11-24T13:00:00Z"]);
    world.set_by.store(5 * 3600, Relaxed);
    pass(2).await;
    assert_eq!(world.fired(), ["2026-11-24T13:00:00Z", "2026-11-24T18:00:00Z"]);
    world.set_by.store(4 * 3600, Relaxed);
    pass(60).await;
    assert_eq!(world.fired().len(), 2, "18:00 has been");
    pass(60).await;
    assert_eq!(world.fired().last().unwrap(), "2026-11-24T19:00:00Z");
}
