//! What both backends promise, each promise against both.

use super::*;
use crate::events::testing::Server;
use futures::future::join_all;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{collections::BTreeMap, path::PathBuf};

/// A folder that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-kv-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The buckets of the service `user`, which may open `a` and `b`, with each backend.
async fn with_each<F: Future>(test: impl Fn(Buckets) -> F) {
    let (scratch, server) = (Scratch::new(), Server::start());
    let redis = KeyValueConfig::Redis { url: server.url(), app: "shop".into() };
    for config in [KeyValueConfig::Sqlite, redis] {
        let buckets = open(config, &scratch, "user").await;
        test(buckets.clone()).await;
        buckets.close().await;
    }
}

async fn open(config: KeyValueConfig, scratch: &Scratch, service: &str) -> Buckets {
    let keyvalue = KeyValue::start(config).await.unwrap();
    keyvalue.buckets(&scratch.0, service, ["a".to_owned(), "b".to_owned()]).await.unwrap()
}

fn other(failure: Failure) -> String {
    match failure {
        Failure::Other(words) => words,
        Failure::NoSuchStore => panic!("{failure}"),
    }
}

async fn all_keys(bucket: &Bucket) -> BTreeSet<String> {
    let (mut keys, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = bucket.list_keys(cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}

#[tokio::test]
async fn what_was_set_is_there_until_it_is_deleted() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        assert_eq!(bucket.get("k").await, Ok(None));
        assert_eq!(bucket.exists("k").await, Ok(false));
        for value in [b"one".to_vec(), vec![0, 255], Vec::new()] {
            bucket.set("k".into(), value.clone()).await.unwrap();
            assert_eq!(bucket.get("k").await, Ok(Some(value)));
            assert_eq!(bucket.exists("k").await, Ok(true));
        }
        assert_eq!(buckets.open("b").unwrap().get("k").await, Ok(None), "another bucket");
        bucket.delete("k".into()).await.unwrap();
        bucket.delete("k".into()).await.unwrap();
        assert_eq!(bucket.get("k").await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    with_each(async |buckets| {
        let (bucket, reader) = (buckets.open("a").unwrap(), buckets.read_only().open("a").unwrap());
        bucket.set("k".into(), b"1".to_vec()).await.unwrap();
        assert_eq!(reader.get("k").await, Ok(Some(b"1".to_vec())));
        assert_eq!(reader.exists("k").await, Ok(true));
        for refused in [
            reader.set("k".into(), b"2".to_vec()).await.unwrap_err(),
            reader.set_many(vec![("k".into(), b"2".to_vec())]).await.unwrap_err(),
            reader.delete("k".into()).await.unwrap_err(),
            reader.delete_many(vec!["k".into()]).await.unwrap_err(),
            reader.increment("k".into(), 1).await.unwrap_err(),
        ] {
            assert!(other(refused).contains("only read"), "refused");
        }
        assert_eq!(bucket.get("k").await, Ok(Some(b"1".to_vec())));
    })
    .await;
}

#[tokio::test]
async fn a_bucket_that_the_manifest_does_not_name_is_none() {
    with_each(async |buckets| assert_eq!(buckets.open("c").unwrap_err(), Failure::NoSuchStore)).await;
}

#[tokio::test]
async fn services_do_not_see_each_others_buckets() {
    let (scratch, server) = (Scratch::new(), Server::start());
    let redis = KeyValueConfig::Redis { url: server.url(), app: "shop".into() };
    for config in [KeyValueConfig::Sqlite, redis] {
        let (user, order) = (open(config.clone(), &scratch, "user").await, open(config, &scratch, "order").await);
        user.open("a").unwrap().set("k".into(), b"mine".to_vec()).await.unwrap();
        assert_eq!(order.open("a").unwrap().get("k").await, Ok(None));
    }
}

#[tokio::test]
async fn increments_add_up_also_when_they_are_many_at_once() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        let sums = join_all((0..100).map(|_| bucket.increment("n".into(), 3))).await;
        let mut sums: Vec<u64> = sums.into_iter().map(Result::unwrap).collect();
        sums.sort_unstable();
        assert!(sums.into_iter().eq((1..=100).map(|n| 3 * n)), "each sum was seen once");
        assert_eq!(bucket.get("n").await, Ok(Some(b"300".to_vec())));
        bucket.set("n".into(), b"41".to_vec()).await.unwrap();
        assert_eq!(bucket.increment("n".into(), 1).await, Ok(42));
    })
    .await;
}

#[tokio::test]
async fn what_is_no_number_is_not_added_to_and_stays() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        for value in ["", "x", "1.5", "9223372036854775807", "9223372036854775808", "99999999999999999999"] {
            bucket.set("n".into(), value.into()).await.unwrap();
            let refused = bucket.increment("n".into(), 1).await;
            assert!(other(refused.unwrap_err()).contains("is no number"), "{value}");
            assert_eq!(bucket.get("n").await, Ok(Some(value.into())));
        }
        bucket.delete("n".into()).await.unwrap();
        assert!(bucket.increment("n".into(), u64::MAX).await.is_err());
        assert_eq!(bucket.increment("n".into(), i64::MAX as u64).await, Ok(i64::MAX as u64));
        assert_eq!(bucket.increment("n".into(), 0).await, Ok(i64::MAX as u64));
    })
    .await;
}

#[tokio::test]
async fn many_are_set_read_and_deleted_at_once() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        let entries = (0..MAX_BATCH).map(|n| (format!("k{n}"), format!("v{n}").into_bytes()));
        bucket.set_many(entries.collect()).await.unwrap();
        let keys = ["k7", "none", "k8", "k7"].map(str::to_owned).to_vec();
        let (v7, v8) = (Some(b"v7".to_vec()), Some(b"v8".to_vec()));
        assert_eq!(bucket.get_many(keys).await, Ok(vec![v7.clone(), None, v8, v7]));
        bucket.delete_many((1..MAX_BATCH).map(|n| format!("k{n}")).collect()).await.unwrap();
        assert_eq!(all_keys(&bucket).await, BTreeSet::from(["k0".to_owned()]));
        for nothing in [bucket.set_many(vec![]).await, bucket.delete_many(vec![]).await] {
            assert_eq!(nothing, Ok(()));
        }
        assert_eq!(bucket.get_many(vec![]).await, Ok(vec![]));
    })
    .await;
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        let keys: BTreeSet<String> = (0..3 * PAGE).map(|n| format!("key {n}")).collect();
        for chunk in keys.iter().collect::<Vec<_>>().chunks(MAX_BATCH) {
            bucket.set_many(chunk.iter().map(|key| ((*key).clone(), vec![1; 100])).collect()).await.unwrap();
        }
        buckets.open("b").unwrap().set("of another".into(), vec![]).await.unwrap();
        assert!(bucket.list_keys(None).await.unwrap().cursor.is_some(), "more than a page");
        assert_eq!(all_keys(&bucket).await, keys);
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_words_and_changes_nothing() {
    with_each(async |buckets| {
        let bucket = buckets.open("a").unwrap();
        let refused = |result: Result<(), Failure>, expected: &str| {
            let words = other(result.unwrap_err());
            assert!(words.contains(expected), "{words}");
        };
        let one = |value: Vec<u8>| vec![("fine".to_owned(), vec![1]), ("k".to_owned(), value)];
        refused(bucket.set_many(one(vec![0; MAX_VALUE + 1])).await, "more than 1048576");
        refused(bucket.set(String::new(), vec![]).await, "expected 1 to 1024");
        refused(bucket.set("k".repeat(MAX_KEY + 1), vec![]).await, "has 1025 bytes");
        refused(bucket.delete_many(vec!["k".into(); MAX_BATCH + 1]).await, "1001 keys at once");
        let nine = (0..9).map(|n| (n.to_string(), vec![0; MAX_VALUE])).collect();
        refused(bucket.set_many(nine).await, "bytes at once");
        assert!(all_keys(&bucket).await.is_empty());

        for n in 0..9 {
            bucket.set(n.to_string(), vec![0; MAX_VALUE]).await.unwrap();
        }
        let refused = bucket.get_many((0..9).map(|n| n.to_string()).collect()).await;
        assert!(other(refused.unwrap_err()).contains("bytes"));
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_away_is_told_and_found_again() {
    let (scratch, mut server) = (Scratch::new(), Server::start());
    let config = KeyValueConfig::Redis { url: server.url(), app: "shop".into() };
    let bucket = open(config, &scratch, "user").await.open("a").unwrap();
    bucket.set("k".into(), b"v".to_vec()).await.unwrap();
    server.kill();
    assert!(other(bucket.get("k").await.unwrap_err()).contains("Redis did not do it"));
    server.revive();
    let found = async {
        while bucket.get("k").await != Ok(Some(b"v".to_vec())) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), found).await.expect("it is found again");
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_told_without_its_password() {
    for (url, expected) in [("redis://:geheim@127.0.0.1:1", "can't be used"), ("http://:geheim@x", "not usable")] {
        let config = KeyValueConfig::Redis { url: url.into(), app: "shop".into() };
        let error = KeyValue::start(config).await.err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains("geheim"), "{error}");
    }
}

#[tokio::test]
async fn what_was_set_survives_the_process() {
    let scratch = Scratch::new();
    for round in 0..3_u64 {
        let buckets = open(KeyValueConfig::Sqlite, &scratch, "user").await;
        assert_eq!(buckets.open("a").unwrap().increment("starts".into(), 1).await, Ok(round + 1));
        buckets.close().await;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<u8>),
    Delete(u8),
    Increment(u8, u32),
    SetMany(Vec<(u8, Vec<u8>)>),
    DeleteMany(Vec<u8>),
}

/// Any sequence of operations leaves what it leaves in a map.
#[test]
fn it_is_a_map() {
    let value =
        || prop_oneof![proptest::collection::vec(any::<u8>(), 0..4), (0..200_u8).prop_map(|n| n.to_string().into())];
    let step = prop_oneof![
        (0..4_u8, value()).prop_map(|(key, value)| Step::Set(key, value)),
        (0..4_u8).prop_map(Step::Delete),
        (0..4_u8, any::<u32>()).prop_map(|(key, delta)| Step::Increment(key, delta)),
        proptest::collection::vec((0..4_u8, value()), 0..4).prop_map(Step::SetMany),
        proptest::collection::vec(0..4_u8, 0..4).prop_map(Step::DeleteMany),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (scratch, server) = (Scratch::new(), Server::start());
    let redis = KeyValueConfig::Redis { url: server.url(), app: "shop".into() };
    for config in [KeyValueConfig::Sqlite, redis] {
        let buckets = runtime.block_on(open(config, &scratch, "user"));
        let bucket = buckets.open("a").unwrap();
        let mut runner =
            TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() });
        let checked = runner.run(&proptest::collection::vec(step.clone(), 0..12), |steps| {
            runtime.block_on(check(&bucket, steps));
            Ok(())
        });
        checked.unwrap();
        runtime.block_on(buckets.close());
    }
}

async fn check(bucket: &Bucket, steps: Vec<Step>) {
    let name = |key: u8| format!("k{key}");
    bucket.delete_many((0..4).map(name).collect()).await.unwrap();
    let mut model = BTreeMap::<u8, Vec<u8>>::new();
    for step in steps {
        match step {
            Step::Set(key, value) => {
                bucket.set(name(key), value.clone()).await.unwrap();
                model.insert(key, value);
            }
            Step::Delete(key) => {
                bucket.delete(name(key)).await.unwrap();
                model.remove(&key);
            }
            Step::Increment(key, delta) => {
                let before = model.get(&key).map_or(Some(0), |value| digits(value));
                let sum = before.map(|before| before + u64::from(delta));
                assert_eq!(bucket.increment(name(key), delta.into()).await.ok(), sum);
                if let Some(sum) = sum {
                    model.insert(key, sum.to_string().into_bytes());
                }
            }
            Step::SetMany(entries) => {
                let named = entries.iter().map(|(key, value)| (name(*key), value.clone()));
                bucket.set_many(named.collect()).await.unwrap();
                model.extend(entries);
            }
            Step::DeleteMany(keys) => {
                bucket.delete_many(keys.iter().copied().map(name).collect()).await.unwrap();
                model.retain(|key, _| !keys.contains(key));
            }
        }
        let values = bucket.get_many((0..4).map(name).collect()).await.unwrap();
        assert_eq!(values, (0..4).map(|key| model.get(&key).cloned()).collect::<Vec<_>>());
        assert_eq!(all_keys(bucket).await, model.keys().copied().map(name).collect());
    }
}

/// The number that these digits are, as Redis reads them: none begins with a zero that is not all of it.
fn digits(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}
