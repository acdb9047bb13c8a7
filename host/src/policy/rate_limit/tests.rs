use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);

fn params(requests: u32, per: Duration, burst: Option<u32>) -> RateLimitParams {
    RateLimitParams { requests, per, burst, key: RateLimitKey::Client }
}

fn limiter(requests: u32, per: Duration, burst: u32) -> RateLimiter {
    RateLimiter::new(RateLimitPolicy::try_new(params(requests, per, Some(burst))).unwrap())
}

/// How many requests in a row it grants.
fn take_all(limiter: &RateLimiter, key: u32) -> u32 {
    (0..).find(|_| !limiter.take(&key, Instant::now()).granted).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_burst_passes_at_once_and_then_one_in_each_interval() {
    let limiter = limiter(100, SECOND, 20);
    for left in (0..20).rev() {
        let quota = limiter.take(&1, Instant::now());
        assert_eq!(quota, Quota { granted: true, left, more_in: Duration::from_millis(10) });
    }
    advance(Duration::from_millis(3)).await;
    let refused = Quota { granted: false, left: 0, more_in: Duration::from_millis(7) };
    assert_eq!(limiter.take(&1, Instant::now()), refused);
    assert_eq!(limiter.take(&1, Instant::now()), refused, "asking in vain costs nothing");
    advance(Duration::from_millis(7)).await;
    assert_eq!(take_all(&limiter, 1), 1);
    advance(SECOND).await;
    assert_eq!(take_all(&limiter, 1), 20, "no more than the burst comes back");
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own() {
    let limiter = limiter(2, SECOND, 2);
    assert_eq!((take_all(&limiter, 1), take_all(&limiter, 2)), (2, 2));
    assert_eq!((take_all(&limiter, 1), take_all(&limiter, 2)), (0, 0));
    let params = RateLimitParams { key: RateLimitKey::Route, ..params(2, SECOND, None) };
    let limiter = RateLimiter::new(RateLimitPolicy::try_new(params).unwrap());
    assert_eq!((take_all(&limiter, 1), take_all(&limiter, 2)), (2, 0), "where all are one, none has");
}

/// A rate that does not divide the time is rounded to the slower side.
#[tokio::test(start_paused = true)]
async fn the_rate_is_never_exceeded() {
    let limiter = limiter(3, SECOND, 1);
    let mut granted = 0;
    for _ in 0..10_000 {
        granted += take_all(&limiter, 1);
        advance(Duration::from_millis(1)).await;
    }
    assert!((29..=30).contains(&granted), "{granted} in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn what_it_said_and_whom_it_knows_is_counted() {
    let limiter = limiter(2, SECOND, 2);
    let empty = KeysSnapshot { held: 0, active: 0, most: 1024 * 16 };
    let fresh = RateLimitSnapshot {
        requests: 2,
        per_ms: 1000,
        burst: 2,
        key: "client".into(),
        granted: 0,
        refused: 0,
        keys: Some(empty),
    };
    assert_eq!((&limiter.snapshot(), &limiter.policy().snapshot()), (&fresh, &fresh));
    for _ in 0..5 {
        limiter.take(&1, Instant::now());
    }
    limiter.take(&2, Instant::now());
    let asked = RateLimitSnapshot { granted: 3, refused: 3, ..fresh };
    assert_eq!(
        limiter.snapshot(),
        RateLimitSnapshot { keys: Some(KeysSnapshot { held: 2, active: 2, ..empty }), ..asked.clone() }
    );
    // Half a second later the second has all that it had before.
    advance(SECOND / 2).await;
    assert_eq!(
        limiter.snapshot(),
        RateLimitSnapshot { keys: Some(KeysSnapshot { held: 2, active: 1, ..empty }), ..asked }
    );

    let params = RateLimitParams { key: RateLimitKey::Route, ..params(1, SECOND, None) };
    let limiter = RateLimiter::new(RateLimitPolicy::try_new(params).unwrap());
    take_all(&limiter, 1);
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.granted, snapshot.refused, snapshot.keys, &*snapshot.key), (1, 1, None, "route"));
    assert_eq!(RateLimitKey::Header("x-api-key".into()).to_string(), "header:x-api-key");
}

#[test]
fn nonsense_is_refused() {
    let refused = |params| RateLimitPolicy::try_new(params).unwrap_err().to_string();
    assert_eq!(refused(params(0, SECOND, None)), "`rate-limit.requests`: expected 1 to 1000000, found 0");
    assert_eq!(
        refused(params(1, Duration::ZERO, None)),
        "`rate-limit.per`: expected more than zero and at most 24h, found 0ns"
    );
    assert_eq!(refused(params(1, SECOND, Some(0))), "`rate-limit.burst`: expected 1 to 1000000, found 0");
    assert_eq!(
        refused(params(1, SECOND, Some(86_401))),
        "`rate-limit.burst`: expected a burst that is there again within 24h of having been used up, found 86401, at 1 \
         per 1s"
    );
    assert!(RateLimitPolicy::try_new(params(1, SECOND, Some(86_400))).is_ok());
    assert!(RateLimitPolicy::try_new(params(1_000_000, Duration::from_nanos(1), None)).is_ok());
    assert!(RateLimitPolicy::try_new(params(1_000_000, MAX_DURATION, None)).is_ok());
    for name in ["", "X-Api-Key", "x api", "x:y", "schlüssel", &"x".repeat(257)] {
        let key = RateLimitKey::Header(name.into());
        assert_eq!(
            refused(RateLimitParams { key, ..params(1, SECOND, None) }),
            format!("`rate-limit.key`: expected the name of a header in lower case, found `{}`", name.escape_debug())
        );
    }
}

// === Many keys ===

#[tokio::test(start_paused = true)]
async fn ten_thousand_keys_have_nearly_all_their_own() {
    let limiter = limiter(1, SECOND, 1);
    let refused = (0..10_000).filter(|key: &u32| !limiter.take(key, Instant::now()).granted).count();
    assert!(refused < 200, "{refused} share a bucket with a stranger");
}

#[tokio::test(start_paused = true)]
async fn invented_keys_take_neither_space_nor_what_others_have() {
    let limiter = limiter(2, SECOND, 2);
    let regulars = 0..500;
    regulars.clone().for_each(|key| assert!(limiter.take(&key, Instant::now()).granted));
    let granted =
        (1_000_000..1_200_000).map(|key: u32| u32::from(limiter.take(&key, Instant::now()).granted)).sum::<u32>();
    // Each place of the table one, and the strangers of each set a burst of two.
    assert!(granted <= 1024 * 16 - 500 + 1024 * 2, "{granted}");
    let keys = limiter.snapshot().keys.expect("it has keys");
    assert_eq!((keys.held, keys.active, keys.most), (1024 * 16, 1024 * 16, 1024 * 16));
    for key in regulars {
        assert!(limiter.take(&key, Instant::now()).granted, "{key} lost its place");
        assert!(!limiter.take(&key, Instant::now()).granted, "{key} was forgotten");
    }
    // When they have been quiet long enough, there is room for others.
    advance(SECOND).await;
    let refused = (2_000_000..2_001_000).filter(|key: &u32| take_all(&limiter, *key) < 2).count();
    assert!(refused < 20, "{refused}");
}

/// Threads that ask for the same key together get what there is, and no more.
#[test]
fn threads_share_a_bucket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let (limiter, now) = (limiter(1_000, SECOND, 1_000), Instant::now());
    let granted: usize = std::thread::scope(|scope| {
        let ask = || (0..1_000).filter(|_| limiter.take(&7, now).granted).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(granted, 1_000);
}

// === Against a model ===

/// What the module's documentation says, with no thought of cost: every grant is kept, and every stretch of time that
/// ends now is looked at.
#[derive(Default)]
struct Model {
    granted: Vec<u64>,
}

impl Model {
    /// From when on `more` requests at once would be granted: no stretch of time may hold more than `burst` and one for
    /// each interval.
    fn free_at(&self, (interval, burst): (u64, u64), more: u64) -> u64 {
        let held = |at: usize| (self.granted.len() - at) as u64 + more;
        let of_stretch = |(at, begin): (usize, &u64)| begin + held(at).saturating_sub(burst) * interval;
        let all = self.granted.iter().enumerate().map(of_stretch).max().unwrap_or(0);
        if more > burst { u64::MAX } else { all }
    }

    fn take(&mut self, rate: (u64, u64), now: u64) -> Quota {
        let granted = self.free_at(rate, 1) <= now;
        if granted {
            self.granted.push(now);
        }
        let left = (1..).take_while(|more| self.free_at(rate, *more) <= now).count() as u64;
        let more_in = Duration::from_nanos(self.free_at(rate, left + 1) - now);
        Quota { granted, left: left as u32, more_in }
    }

    /// Whether what was granted to it elsewhere was the rate's to grant.
    fn conforms(&mut self, rate: (u64, u64), now: u64) -> bool {
        self.take(rate, now).granted
    }
}

fn a_policy() -> impl Strategy<Value = (u32, u64, u32)> {
    (1u32..50, 1u64..2_000, 1u32..12)
}

proptest! {
    /// Every answer is the model's: what is granted, what is left, and when there is more.
    #[test]
    fn a_bucket_is_what_the_model_says(
        (requests, millis, burst) in a_policy(),
        pauses in prop::collection::vec((0u64..4, 0u64..1_000_000), 1..80),
    ) {
        let policy = RateLimitPolicy::try_new(params(requests, Duration::from_millis(millis), Some(burst))).unwrap();
        let meter = Meter::new(&policy);
        let interval = (millis * 1_000_000).div_ceil(requests.into());
        let (mut bucket, mut model, mut now) = (0, Model::default(), 0);
        for (intervals, part) in pauses {
            // Often the very moment, and a nanosecond before and after it.
            now += intervals * interval / 2 + match part % 3 { 0 => 0, 1 => 1, _ => interval * part / 1_000_000 };
            let found = meter.take(&mut bucket, now);
            prop_assert_eq!(found, model.take((interval, burst.into()), now), "at {}", now);
            if !found.granted {
                let again = now + u64::try_from(found.more_in.as_nanos()).unwrap();
                prop_assert!(!meter.take(&mut bucket.clone(), again - 1).granted);
                prop_assert!(meter.take(&mut bucket.clone(), again).granted);
            }
        }
    }

    /// In a table that is far too small, keys come and go and share. None of them ever gets more than its limit, and as
    /// long as no more keys are about than there is room for, each gets what it would get alone.
    #[test]
    fn no_key_gets_more_than_its_limit(
        (requests, millis, burst) in a_policy(),
        ways in 1usize..4,
        asks in prop::collection::vec((0u8..6, 0u64..3, 0u64..100), 1..200),
    ) {
        let policy = RateLimitPolicy::try_new(params(requests, Duration::from_millis(millis), Some(burst))).unwrap();
        let (meter, keys) = (Meter::new(&policy), Keys::new(1, ways));
        let interval = (millis * 1_000_000).div_ceil(requests.into());
        let rate = (interval, u64::from(burst));
        let mut now = 0;
        let (mut alone, mut granted) = (HashMap::<u8, Model>::new(), HashMap::<u8, Model>::new());
        for (key, intervals, part) in asks {
            now += intervals * interval / 2 + interval * part / 100;
            let found = keys.with_bucket(&key, now, |bucket| meter.take(bucket, now));
            if found.granted {
                prop_assert!(granted.entry(key).or_default().conforms(rate, now), "{} got too much", key);
            }
            let expected = alone.entry(key).or_default().take(rate, now);
            if alone.len() <= ways {
                prop_assert_eq!(found, expected);
            }
            prop_assert!(keys.snapshot(now).1.held <= ways as u64);
        }
    }
}
