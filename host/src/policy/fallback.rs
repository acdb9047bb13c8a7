//! What a caller gets in place of a failure.
//!
//! Three ways, declared for an edge: a **stale** answer, remembered from when the callee was well; a **fixed** answer; or
//! the failure itself, which is what there is where nothing is declared. Stale comes before fixed.
//!
//! A stale answer is the seed's "return cached data" without a line of code in the caller. It is the edge that remembers,
//! not the caller, so it remembers only what is a question and no order: safe HTTP requests, and the functions that the
//! policy names. What it remembers is bounded in number, size and age, and the answer tells its age.
//!
//! A fixed answer to an HTTP request is whole as it is declared. The fixed result of a function is a value of a type that
//! only the components know, so here it is a text, and becomes a value where the edge is linked.

use super::{InvalidPolicy, WaveText, bounds, invalid, retry};
use lru::LruCache;
use std::{
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A fixed answer to HTTP requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer {
    /// Its status (200 to 599).
    pub status: u16,
    /// The media type of its body.
    pub content_type: String,
    /// Its body.
    pub body: String,
}

/// What a function is always answered in place of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResult {
    /// The function, by its name or its full name: `find`, `shop:users/directory.find`.
    pub function: String,
    /// The value that it gives.
    pub value: WaveText,
}

/// What is remembered for stale answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleParams {
    /// How old an answer may be.
    pub max_age: Duration,
    /// How many answers are remembered; the one that was of use longest ago is forgotten first.
    pub entries: u32,
    /// How many bytes they take together.
    pub size: u64,
    /// The functions whose results are remembered, by their names or full names. Of HTTP requests those are that are safe
    /// and answered with success.
    pub functions: Vec<String>,
}

/// The parts of a [`FallbackPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackParams {
    /// Answers from when the callee was well.
    pub stale: Option<StaleParams>,
    /// An answer to HTTP requests that is always the same.
    pub fixed: Option<FixedAnswer>,
    /// Results of functions that are always the same. A function's full name comes before its short one.
    pub fixed_results: Vec<FixedResult>,
}

/// What an edge gives in place of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackPolicy(FallbackParams);

/// Answers that were good, by what was asked.
#[derive(Debug)]
pub struct StaleCache<K: Hash + Eq, V> {
    inner: Mutex<Entries<K, V>>,
}

#[derive(Debug)]
struct Entries<K: Hash + Eq, V> {
    by_key: LruCache<K, Entry<V>>,
    size: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    size: u64,
    at: Instant,
}

// === impl FallbackPolicy ===

impl FallbackPolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When a number or duration is out of range, a function is named twice or not at all, or the media type of the fixed
    /// answer can't stand in a header.
    pub fn try_new(params: FallbackParams) -> Result<Self, InvalidPolicy> {
        if let Some(stale) = &params.stale {
            invalid::check_duration("fallback.stale.max-age", stale.max_age)?;
            invalid::check_count("fallback.stale.entries", stale.entries, bounds::STALE_ENTRIES)?;
            if !bounds::STALE_SIZE.contains(&stale.size) {
                let (least, most) = (bounds::STALE_SIZE.start(), bounds::STALE_SIZE.end());
                let expected = format!("{least} to {most} bytes");
                return Err(InvalidPolicy::new("fallback.stale.size", expected, stale.size));
            }
            invalid::check_functions("fallback.stale.functions", &stale.functions)?;
        }
        if let Some(fixed) = &params.fixed {
            invalid::check_count("fallback.fixed.status", u32::from(fixed.status), bounds::ANSWER_STATUS)?;
            let is_visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            if fixed.content_type.is_empty() || !fixed.content_type.bytes().all(is_visible) {
                let found = format_args!("`{}`", fixed.content_type.escape_debug());
                return Err(InvalidPolicy::new("fallback.fixed.content-type", "a media type", found));
            }
        }
        let functions: Vec<String> = params.fixed_results.iter().map(|result| result.function.clone()).collect();
        invalid::check_functions("fallback.fixed-results", &functions)?;
        Ok(Self(params))
    }

    /// Its parts.
    pub fn params(&self) -> &FallbackParams {
        &self.0
    }

    /// What is to be remembered of this function of this interface, if anything.
    pub fn remembers(&self, interface: &str, function: &str) -> Option<&StaleParams> {
        let stale = self.0.stale.as_ref();
        stale.filter(|stale| retry::names_function(&stale.functions, interface, function))
    }
}

// === impl FixedResult ===

impl FixedResult {
    /// Whether it is the result of this function of this interface.
    pub fn is_of(&self, interface: &str, function: &str) -> bool {
        retry::names_function(std::slice::from_ref(&self.function), interface, function)
    }

    /// Whether it names its function in full.
    pub fn is_full(&self) -> bool {
        self.function.contains('/')
    }
}

impl Default for StaleParams {
    /// Ten minutes, a thousand answers, 8 MiB, no functions.
    fn default() -> Self {
        Self { max_age: Duration::from_secs(600), entries: 1_000, size: 8 << 20, functions: Vec::new() }
    }
}

impl Default for FixedAnswer {
    /// 200 with an empty JSON object.
    fn default() -> Self {
        Self { status: 200, content_type: "application/json".into(), body: "{}".into() }
    }
}

// === impl StaleCache ===

impl<K: Hash + Eq, V: Clone> StaleCache<K, V> {
    /// Remembers what `key` was answered now, as far as `params` allows; `size` is what both take, in bytes.
    pub fn put(&self, params: &StaleParams, key: K, value: V, size: u64) {
        if size > params.size {
            return;
        }
        let mut entries = self.lock();
        let entry = Entry { value, size, at: Instant::now() };
        let before = entries.by_key.put(key, entry).map_or(0, |entry| entry.size);
        entries.size = entries.size - before + size;
        while entries.by_key.len() > params.entries as usize || entries.size > params.size {
            let Some((_, oldest)) = entries.by_key.pop_lru() else { break };
            entries.size -= oldest.size;
        }
    }

    /// What `key` was answered the last time, and how long ago that is; nothing that is older than `params` allows.
    pub fn get<Q>(&self, params: &StaleParams, key: &Q) -> Option<(V, Duration)>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut entries = self.lock();
        let entry = entries.by_key.get(key)?;
        let age = entry.at.elapsed();
        if age <= params.max_age {
            return Some((entry.value.clone(), age));
        }
        if let Some(entry) = entries.by_key.pop(key) {
            entries.size -= entry.size;
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K, V>> {
        // What it holds can be forgotten, and a sum that is off only makes it forget sooner or later.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Default for StaleCache<K, V> {
    /// One that holds nothing, and takes no memory until it does.
    fn default() -> Self {
        Self { inner: Mutex::new(Entries { by_key: LruCache::unbounded(), size: 0 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    fn params(entries: u32, size: u64) -> StaleParams {
        StaleParams { max_age: 10 * SECOND, entries, size, functions: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_tells_its_age_and_is_forgotten_when_it_is_too_old() {
        let (cache, params) = (StaleCache::default(), params(10, 1 << 20));
        assert_eq!(cache.get(&params, "a"), None);
        cache.put(&params, String::from("a"), 1, 100);
        advance(4 * SECOND).await;
        assert_eq!(cache.get(&params, "a"), Some((1, 4 * SECOND)));
        cache.put(&params, "a".into(), 2, 100);
        advance(10 * SECOND).await;
        assert_eq!(cache.get(&params, "a"), Some((2, 10 * SECOND)));
        advance(SECOND).await;
        assert_eq!(cache.get(&params, "a"), None);
        assert!(cache.lock().by_key.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_of_no_use_longest_is_forgotten_first() {
        let (cache, params) = (StaleCache::default(), params(2, 1 << 20));
        cache.put(&params, String::from("a"), 1, 1);
        cache.put(&params, "b".into(), 2, 1);
        assert!(cache.get(&params, "a").is_some());
        cache.put(&params, "c".into(), 3, 1);
        let there = ["a", "b", "c"].map(|key| cache.get(&params, key).is_some());
        assert_eq!(there, [true, false, true]);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(
            entries in 1..8_u32,
            size in 64..1_000_u64,
            steps in proptest::collection::vec((0..20_u32, 0..500_u64, any::<bool>()), 0..100),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (cache, params) = (StaleCache::default(), params(entries, size));
                let mut last = std::collections::HashMap::new();
                for (key, bytes, put) in steps {
                    if put {
                        cache.put(&params, key, bytes, bytes);
                        if bytes <= size {
                            last.insert(key, bytes);
                        }
                    } else if let Some((value, _)) = cache.get(&params, &key) {
                        assert_eq!(Some(&value), last.get(&key), "what it gives is the last that was put");
                    }
                    let held = cache.lock();
                    let sum: u64 = held.by_key.iter().map(|(_, entry)| entry.size).sum();
                    assert_eq!(held.size, sum);
                    assert!(held.by_key.len() <= entries as usize && sum <= size);
                }
            });
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |params| FallbackPolicy::try_new(params).unwrap_err().to_string();
        let stale = |stale| FallbackParams { stale: Some(stale), ..FallbackParams::default() };
        let fixed = |fixed| FallbackParams { fixed: Some(fixed), ..FallbackParams::default() };
        let results = |functions: [&str; 2]| {
            let value = WaveText::try_new("none").unwrap();
            let result = |function: &str| FixedResult { function: function.into(), value: value.clone() };
            FallbackParams { fixed_results: functions.map(result).into(), ..FallbackParams::default() }
        };
        for (params, expected) in [
            (
                stale(StaleParams { max_age: Duration::ZERO, ..StaleParams::default() }),
                "`fallback.stale.max-age`: expected more than zero and at most 24h, found 0ns",
            ),
            (
                stale(StaleParams { entries: 0, ..StaleParams::default() }),
                "`fallback.stale.entries`: expected 1 to 1000000, found 0",
            ),
            (
                stale(StaleParams { size: 1, ..StaleParams::default() }),
                "`fallback.stale.size`: expected 1024 to 1073741824 bytes, found 1",
            ),
            (
                stale(StaleParams { functions: vec!["a".into(), "a".into()], ..StaleParams::default() }),
                "`fallback.stale.functions`: expected each function once, found `a` twice",
            ),
            (
                fixed(FixedAnswer { status: 100, ..FixedAnswer::default() }),
                "`fallback.fixed.status`: expected 200 to 599, found 100",
            ),
            (
                fixed(FixedAnswer { content_type: "a\nb".into(), ..FixedAnswer::default() }),
                "`fallback.fixed.content-type`: expected a media type, found `a\\nb`",
            ),
            (results(["a", "a"]), "`fallback.fixed-results`: expected each function once, found `a` twice"),
            (results(["a", ""]), "`fallback.fixed-results`: expected the names of functions, found an empty one"),
        ] {
            assert_eq!(refused(params), expected);
        }
    }
}
