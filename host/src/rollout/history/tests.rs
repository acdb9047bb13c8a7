use super::*;
use crate::engine::CodeCache;
use std::fs;

/// A folder of its own; gone after the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("wharf-history-{}", uuid::Uuid::new_v4())))
    }

    fn open(&self, keep: usize) -> History {
        History::open(&self.0, keep).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn info(wasm: &[u8]) -> RevisionInfo {
    RevisionInfo { hash: CodeCache::content_hash(wasm), origin: "test".into(), ..RevisionInfo::default() }
}

async fn deploy(history: &History, service: &str, wasm: &'static [u8]) -> u64 {
    let number = history.begin(service, wasm, info(wasm)).await.unwrap().number;
    history.serve(service, number, Serving::default()).await.unwrap();
    number
}

async fn current(history: &History, service: &str) -> Option<u64> {
    Some(history.current(service).await?.revision.number)
}

#[tokio::test]
async fn what_was_recorded_is_there_when_it_is_opened_again() {
    let place = Place::new();
    let history = place.open(5);
    assert_eq!(deploy(&history, "user", b"one").await, 1);
    assert_eq!(deploy(&history, "user", b"two").await, 2);
    assert_eq!(deploy(&history, "order", b"three").await, 1);
    drop(history);
    let history = place.open(5);
    assert_eq!((current(&history, "user").await, current(&history, "order").await), (Some(2), Some(1)));
    let before = history.target("user", None).await.unwrap();
    assert_eq!((before.revision.number, history.component(&before.revision.hash).await.unwrap()), (1, b"one".to_vec()));
    assert_eq!(deploy(&history, "user", b"four").await, 3);
    assert_eq!(current(&history, "nobody").await, None);
}

#[tokio::test]
async fn the_same_component_of_two_services_goes_with_the_last_of_them() {
    let place = Place::new();
    let history = place.open(1);
    deploy(&history, "user", b"same").await;
    deploy(&history, "order", b"same").await;
    deploy(&history, "user", b"other").await;
    assert_eq!(place.files().len(), 4, "{:?}", place.files());
    deploy(&history, "order", b"other").await;
    assert_eq!(place.files().len(), 3, "{:?}", place.files());
    assert!(history.component(&CodeCache::content_hash(b"same")).await.is_err());
}

#[tokio::test]
async fn the_manifests_component_decides_only_where_it_is_another_one_since() {
    let history = History::new();
    let hash = CodeCache::content_hash;
    assert!(history.at_start("user", &hash(b"one")).await.is_none());
    let number = history.begin("user", b"one", info(b"one")).await.unwrap().number;
    let serving = Serving { manifest: Some(hash(b"one")), ..Serving::default() };
    history.serve("user", number, serving).await.unwrap();
    deploy(&history, "user", b"two").await;
    let starts = async |wasm| history.at_start("user", &hash(wasm)).await.map(|kept| kept.revision.number);
    assert_eq!(starts(b"one").await, Some(2));
    assert_eq!(starts(b"two").await, Some(2));
    assert_eq!(starts(b"three").await, None);
    history.seen("user", hash(b"three")).await.unwrap();
    assert_eq!((starts(b"one").await, starts(b"three").await), (None, Some(2)));
}

#[tokio::test]
async fn what_cannot_be_written_has_not_happened() {
    let place = Place::new();
    let history = place.open(5);
    deploy(&history, "user", b"one").await;
    let number = history.begin("user", b"two", info(b"two")).await.unwrap().number;
    // Nobody can write into a folder that is not there.
    fs::rename(&place.0, place.0.with_extension("away")).unwrap();
    let error = history.serve("user", number, Serving::default()).await.unwrap_err();
    assert!(error.to_string().contains("user.json can't be written"), "{error}");
    assert_eq!(current(&history, "user").await, Some(1));
    assert!(history.begin("user", b"three", info(b"three")).await.is_err());
    fs::rename(place.0.with_extension("away"), &place.0).unwrap();
    history.end("user", number, Standing::Failed, "no room".into()).await.unwrap();
    assert_eq!(history.begin("user", b"three", info(b"three")).await.unwrap().number, 3);
    let kept = place.open(5).of("user").await.unwrap();
    assert_eq!((kept.current, kept.revisions.len()), (Some(1), 3));
}

#[tokio::test]
async fn a_component_that_is_not_what_its_name_says_is_not_taken() {
    let place = Place::new();
    let history = place.open(5);
    deploy(&history, "user", b"one").await;
    let hash = CodeCache::content_hash(b"one");
    let file = place.0.join(format!("{hash}.wasm"));
    fs::write(&file, b"evil").unwrap();
    let error = history.component(&hash).await.unwrap_err();
    assert!(error.to_string().contains("its content is another one"), "{error}");
    // Deployed anew, it is mended.
    deploy(&history, "user", b"one").await;
    assert_eq!(history.component(&hash).await.unwrap(), b"one");
}
