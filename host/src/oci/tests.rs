//! Registries that do what a real one never should, and what only few do.

use super::{
    artifact::{Artifact, MANIFEST},
    *,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// A server of a few answers, each by its method and target. What it has none for is 404.
struct Mock {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Answer>,
    /// The header that requests must have, and what others are told.
    guarded: Option<(String, String)>,
    /// Method and target, and who asks.
    asked: Vec<(String, Option<String>)>,
    bodies: BTreeMap<String, Bytes>,
    silent: bool,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Mock {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let answer = service_fn(move |request| answer(state.clone(), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, state, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(
        &self,
        request: impl Into<String>,
        status: u16,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.state().answers.insert(request.into(), Answer { status, headers, body: body.into() });
    }

    /// Has `wasm` as `order:1`. The digest of its manifest.
    fn has(&self, wasm: &[u8]) -> Digest {
        let artifact = Artifact::of(wasm, "order").expect("a component");
        let digest = Digest::of(&artifact.manifest);
        let headers = [("content-type", MANIFEST), ("docker-content-digest", &digest.to_string())];
        for version in ["1", &digest.to_string()] {
            self.answers(format!("GET /v2/order/manifests/{version}"), 200, &headers, artifact.manifest.clone());
        }
        self.answers(format!("GET {}", blob_path(wasm)), 200, &[], wasm.to_vec());
        digest
    }

    fn tag(&self) -> Reference {
        format!("oci://{}/order:1", self.address).parse().expect("a reference")
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked).into_iter().map(|(request, _)| request).collect()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let named = format!("{} {}", head.method, head.uri);
    let who = head.headers.get("authorization").and_then(|who| who.to_str().ok()).map(str::to_owned);
    let (answer, silent) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push((named.clone(), who.clone()));
        state.bodies.insert(named.clone(), body);
        let told = match &state.guarded {
            Some((expected, told)) if who.as_ref() != Some(expected) && !named.contains("/token") => Some(told.clone()),
            _ => None,
        };
        let answer = match told {
            Some(told) => Some(Answer { status: 401, headers: vec![("www-authenticate", told)], body: Bytes::new() }),
            None => state.answers.get(&named).cloned(),
        };
        (answer, state.silent)
    };
    if silent {
        std::future::pending::<()>().await;
    }
    let not_found =
        Answer { status: 404, headers: Vec::new(), body: Bytes::from_static(br#"{"errors":[{"code":"UNKNOWN"}]}"#) };
    let answer = answer.unwrap_or(not_found);
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("tests know their statuses");
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().expect("a value"));
    }
    Ok(response)
}

fn blob_path(content: &[u8]) -> String {
    format!("/v2/order/blobs/{}", Digest::of(content))
}

/// A component that differs from others by this.
fn component(what: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (@custom \"note\" \"{what}\"))")).expect("it is well-formed")
}

/// A folder, and who pulls into it.
struct Pulling {
    puller: Puller,
    folder: PathBuf,
}

impl Pulling {
    fn new() -> Self {
        Self::with(Credentials::default())
    }

    fn with(credentials: Credentials) -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-oci-{}", uuid::Uuid::new_v4()));
        Self { puller: Puller::with_credentials(&folder, credentials).expect("a temporary folder"), folder }
    }

    async fn pull(&self, reference: &Reference) -> Result<Pulled, String> {
        self.puller.pull(reference, &|_| ()).await.map_err(|error| error.to_string())
    }

    /// Pulls, and reads what came.
    async fn content(&self, reference: &Reference) -> (Vec<u8>, Provenance) {
        let pulled = self.pull(reference).await.unwrap_or_else(|error| panic!("{error}"));
        (std::fs::read(pulled.path).expect("it is there"), pulled.provenance)
    }

    /// Whether nothing was kept.
    fn is_empty(&self) -> bool {
        let blobs = std::fs::read_dir(self.folder.join("blobs/sha256")).expect("it is there").count();
        let unfinished = std::fs::read_dir(&self.folder).expect("it is there").flatten();
        let unfinished = unfinished.filter(|it| it.file_name().to_string_lossy().ends_with(".tmp")).count();
        blobs == 0 && unfinished == 0 && !self.folder.join("index.json").exists()
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Credentials for this registry, as `docker login` writes them: ada, with the password lovelace.
fn login(registry: SocketAddr) -> Credentials {
    let path = std::env::temp_dir().join(format!("wharf-login-{}.json", uuid::Uuid::new_v4()));
    std::fs::write(&path, format!(r#"{{"auths": {{"{registry}": {{"auth": "YWRhOmxvdmVsYWNl"}}}}}}"#)).expect("a file");
    let credentials = Credentials::read(&path).expect("it is well-formed");
    std::fs::remove_file(&path).expect("it is ours");
    credentials
}

#[tokio::test]
async fn a_digest_is_asked_for_once_and_a_tag_each_time() {
    let (registry, pulling) = (Mock::start().await, Pulling::new());
    let (one, two) = (component("one"), component("two"));
    let digest = registry.has(&one);
    let tag = registry.tag();
    assert_eq!(pulling.content(&tag).await, (one.clone(), Provenance::Registry));
    assert_eq!(registry.asked(), ["GET /v2/order/manifests/1".to_owned(), format!("GET {}", blob_path(&one))]);
    assert_eq!(pulling.content(&tag).await, (one.clone(), Provenance::Cache));
    assert_eq!(registry.asked(), ["GET /v2/order/manifests/1"]);
    // The digest of a tag is one that was pulled.
    assert_eq!(pulling.content(&tag.at(digest)).await, (one.clone(), Provenance::Cache));
    assert_eq!(registry.asked(), [""; 0]);
    let second = registry.has(&two);
    assert_eq!(pulling.content(&tag).await, (two.clone(), Provenance::Registry));
    registry.asked();
    assert_eq!(pulling.content(&tag.at(digest)).await.0, one);
    assert_eq!(pulling.content(&tag.at(second)).await.0, two);
    assert_eq!(registry.asked(), [""; 0]);
}

#[tokio::test]
async fn a_registry_that_is_away_is_stood_in_for_and_one_that_says_no_is_believed() {
    let (registry, pulling) = (Mock::start().await, Pulling::new());
    let wasm = component("one");
    let digest = registry.has(&wasm);
    let tag = registry.tag();
    let manifest = "GET /v2/order/manifests/1";
    registry.answers(manifest, 503, &[], "");
    let error = pulling.pull(&tag).await.expect_err("there is nothing");
    assert!(error.contains("is away: it answers 503") && error.ends_with("is not in the cache"), "{error}");
    assert!(pulling.is_empty());

    registry.has(&wasm);
    pulling.content(&tag).await;
    for status in [500, 503, 429] {
        registry.answers(manifest, status, &[], r#"{"errors":[{"code":"BUSY","message":"not now"}]}"#);
        let (content, provenance) = pulling.content(&tag).await;
        let Provenance::LastKnown { away } = provenance else { panic!("{status}: {provenance:?}") };
        assert!(content == wasm && away.contains(&status.to_string()) && away.contains("not now"), "{away}");
    }
    for (status, said) in
        [(404, "no such component (it says: gone)"), (403, "does not permit it"), (400, "refuses it with 400")]
    {
        registry.answers(manifest, status, &[], r#"{"errors":[{"code":"GONE","message":"gone"}]}"#);
        let error = pulling.pull(&tag).await.expect_err("it is not away");
        assert!(error.contains(said), "{status}: {error}");
    }
    registry.has(&wasm);
    // Away in the middle of it.
    let other = component("two");
    registry.has(&other);
    registry.answers(format!("GET {}", blob_path(&other)), 502, &[], "");
    let pulled = pulling.pull(&tag).await.expect("what it was");
    assert!(pulled.digest == digest && matches!(pulled.provenance, Provenance::LastKnown { .. }), "{pulled:?}");

    registry.state().silent = true;
    tokio::time::pause();
    let pulled = pulling.pull(&tag).await.expect("what it was");
    assert!(matches!(pulled.provenance, Provenance::LastKnown { .. }), "{pulled:?}");
    tokio::time::resume();
    drop(registry);
    let pulled = pulling.pull(&tag).await.expect("what it was");
    assert!(matches!(pulled.provenance, Provenance::LastKnown { .. }), "{pulled:?}");
    pulling.content(&tag.at(digest)).await;
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_refused_and_not_kept() {
    let (wasm, other) = (component("one"), component("two"));
    let registry = Mock::start().await;
    let digest = registry.has(&wasm);
    let tag = registry.tag();
    let by_digest = tag.at(digest);
    let blob = format!("GET {}", blob_path(&wasm));
    let changed = "is not what was asked for: the component should have the digest";
    let longer = [&wasm[..], b"\0"].concat();
    for (sent, said) in [
        (&other[..], changed),
        (&longer, "sends more than it should"),
        (&wasm[..9], "9 bytes of a component"),
        (&[], "0 bytes"),
    ] {
        registry.answers(&blob, 200, &[], sent.to_vec());
        for reference in [&tag, &by_digest] {
            let pulling = Pulling::new();
            let error = pulling.pull(reference).await.expect_err("it is another");
            assert!(error.contains(said), "{error}");
            assert!(pulling.is_empty());
        }
    }
    registry.has(&wasm);
    let manifest = Artifact::of(&other, "order").expect("a component").manifest;
    registry.answers(format!("GET /v2/order/manifests/{digest}"), 200, &[], manifest.clone());
    registry.answers("GET /v2/order/manifests/1", 200, &[("docker-content-digest", &digest.to_string())], manifest);
    for reference in [&tag, &by_digest] {
        let pulling = Pulling::new();
        let error = pulling.pull(reference).await.expect_err("it is another");
        assert!(error.contains("the manifest should have the digest"), "{error}");
        assert!(pulling.is_empty());
    }
}

#[tokio::test]
async fn what_is_too_large_is_not_begun() {
    let (registry, pulling) = (Mock::start().await, Pulling::new());
    let wasm = component("one");
    registry.has(&wasm);
    let told = |size: &str| {
        let manifest = String::from_utf8(Artifact::of(&wasm, "order").expect("a component").manifest).expect("JSON");
        let written = format!("\"size\":{},\"annotations\"", wasm.len());
        assert!(manifest.contains(&written));
        manifest.replace(&written, &format!("\"size\":{size},\"annotations\""))
    };
    registry.answers("GET /v2/order/manifests/1", 200, &[], told("268435457"));
    let error = pulling.pull(&registry.tag()).await.expect_err("it is too large");
    assert!(error.contains("268435457 bytes, and 268435456 are the most"), "{error}");
    assert_eq!(registry.asked(), ["GET /v2/order/manifests/1"]);
    registry.answers("GET /v2/order/manifests/1", 200, &[], vec![b' '; 5 << 20]);
    let error = pulling.pull(&registry.tag()).await.expect_err("it is too large");
    assert!(error.contains("sends more than it should"), "{error}");
    assert!(pulling.is_empty());
}

#[tokio::test]
async fn a_cache_that_is_spoilt_is_filled_again() {
    let (registry, pulling) = (Mock::start().await, Pulling::new());
    let wasm = component("one");
    let digest = registry.has(&wasm);
    let reference = registry.tag().at(digest);
    let path = pulling.pull(&reference).await.expect("it is there").path;
    std::fs::write(&path, "spoilt").expect("it can be written");
    assert_eq!(pulling.content(&reference).await, (wasm.clone(), Provenance::Registry));
    std::fs::write(pulling.folder.join("blobs/sha256").join(digest.hex()), "spoilt").expect("it can be written");
    assert_eq!(pulling.content(&reference).await, (wasm.clone(), Provenance::Cache));
    std::fs::remove_dir_all(&pulling.folder).expect("it is ours");
    let again = Pulling {
        puller: Puller::with_credentials(&pulling.folder, Credentials::default()).expect("a folder"),
        folder: pulling.folder.clone(),
    };
    assert_eq!(again.content(&reference).await.0, wasm);
}

#[tokio::test]
async fn a_token_is_got_where_the_registry_says() {
    let (registry, tokens) = (Mock::start().await, Mock::start().await);
    let wasm = component("one");
    registry.has(&wasm);
    let told = format!(
        "Bearer realm=\"http://{}/token?x=1\",service=\"the registry\",scope=\"repository:order:pull\"",
        tokens.address
    );
    registry.state().guarded = Some(("Bearer opensesame".into(), told));
    let token = "GET /token?x=1&service=the%20registry&scope=repository:order:pull";
    tokens.answers(token, 200, &[], r#"{"token": "opensesame", "expires_in": 60}"#);
    for credentials in [Credentials::default(), login(registry.address)] {
        let known = !format!("{credentials:?}").contains("[]");
        let pulling = Pulling::with(credentials);
        assert_eq!(pulling.content(&registry.tag()).await.0, wasm);
        let asked = std::mem::take(&mut tokens.state().asked);
        // Once for all requests.
        assert_eq!(asked, [(token.to_owned(), known.then(|| "Basic YWRhOmxvdmVsYWNl".to_owned()))]);
        let first = &std::mem::take(&mut registry.state().asked)[0];
        assert_eq!(first.1, None, "a password is shown to a registry that did not ask");
    }
    for body in ["{}", r#"{"token": ""}"#, "nonsense", r#"{"token": "a\nb"}"#] {
        tokens.answers(token, 200, &[], body);
        let error = Pulling::new().pull(&registry.tag()).await.expect_err("there is no token");
        assert!(error.contains("gives no token"), "{error}");
    }
    tokens.answers(token, 200, &[], r#"{"access_token": "another"}"#);
    let error = Pulling::new().pull(&registry.tag()).await.expect_err("it is no use");
    assert!(error.contains("does not permit it") && error.contains("docker login"), "{error}");
    tokens.answers(token, 401, &[], "");
    let error = Pulling::with(login(registry.address)).pull(&registry.tag()).await.expect_err("it is wrong");
    assert!(error.contains("does not permit it") && error.contains("don't do"), "{error}");
}

#[tokio::test]
async fn a_password_is_for_its_registry_and_nobody_else() {
    let (registry, elsewhere) = (Mock::start().await, Mock::start().await);
    let wasm = component("one");
    registry.has(&wasm);
    registry.state().guarded = Some(("Basic YWRhOmxvdmVsYWNl".into(), "Basic realm=\"x\"".into()));
    let (here, there) = (format!("GET {}", blob_path(&wasm)), format!("http://{}/storage?key=1", elsewhere.address));
    registry.answers(&here, 307, &[("location", &there)], "");
    elsewhere.answers("GET /storage?key=1", 200, &[], wasm.clone());
    let pulling = Pulling::with(login(registry.address));
    assert_eq!(pulling.content(&registry.tag()).await.0, wasm);
    assert_eq!(elsewhere.state().asked, [("GET /storage?key=1".to_owned(), None)]);
    // Whoever is sent to wants to know who one is, too. It is none of its business.
    elsewhere.state().guarded = Some(("Basic YWRhOmxvdmVsYWNl".into(), "Basic realm=\"x\"".into()));
    let error = Pulling::with(login(registry.address)).pull(&registry.tag()).await.expect_err("it is not told");
    assert!(error.contains("does not permit it"), "{error}");
    assert!(elsewhere.state().asked.iter().all(|(_, who)| who.is_none()));
}

#[tokio::test]
async fn who_is_sent_on_goes_only_so_far() {
    let registry = Mock::start().await;
    let wasm = component("one");
    registry.has(&wasm);
    let blob = format!("GET {}", blob_path(&wasm));
    for (location, said) in [
        (blob_path(&wasm), "sends on more than 5 times"),
        ("http://registry.example.com/blob".into(), "not spoken to by TLS"),
        ("ftp://127.0.0.1/blob".into(), "does"),
        ("http://".into(), "is not where a request can go"),
    ] {
        registry.answers(&blob, 302, &[("location", &location)], "");
        let pulling = Pulling::new();
        let error = pulling.pull(&registry.tag()).await.expect_err("it leads nowhere");
        assert!(error.contains(said) || location.starts_with("ftp"), "{error}");
        assert!(pulling.is_empty());
    }
    registry.answers(&blob, 302, &[], "");
    let error = Pulling::new().pull(&registry.tag()).await.expect_err("it leads nowhere");
    assert!(error.contains("sends on to nowhere"), "{error}");
}

#[tokio::test]
async fn what_is_pushed_is_what_is_pulled() {
    let registry = Mock::start().await;
    let wasm = component("one");
    let artifact = Artifact::of(&wasm, "order").expect("a component");
    let expected = Digest::of(&artifact.manifest);
    let upload = |query: &str, content: &[u8]| {
        let digest = Digest::of(content);
        let separator = if query.contains('?') { '&' } else { '?' };
        format!("PUT /uploads/7{query}{separator}digest={digest}")
    };
    registry.answers("PUT /v2/order/manifests/1", 201, &[], "");
    for (location, query) in
        [(format!("http://{}/uploads/7?state=a", registry.address), "?state=a"), ("/uploads/7".to_owned(), "")]
    {
        registry.answers("POST /v2/order/blobs/uploads/", 202, &[("location", &location)], "");
        for content in [&wasm, &artifact.config] {
            registry.answers(upload(query, content), 201, &[], "");
        }
        let pushed = push(&Credentials::default(), &registry.tag(), wasm.clone()).await;
        assert_eq!(pushed.expect("it is taken"), expected);
        let bodies = &registry.state().bodies;
        assert_eq!(bodies[&upload(query, &wasm)], wasm);
        assert_eq!(bodies[&upload(query, &artifact.config)], artifact.config);
        assert_eq!(bodies["PUT /v2/order/manifests/1"], artifact.manifest);
    }
    registry.asked();
    // What is there is not sent.
    for content in [&wasm, &artifact.config] {
        registry.answers(format!("HEAD {}", blob_path(content)), 200, &[], "");
    }
    push(&Credentials::default(), &registry.tag(), wasm.clone()).await.expect("it is taken");
    assert!(
        registry.asked().iter().all(|asked| asked.starts_with("HEAD") || asked.starts_with("PUT /v2/order/manifests"))
    );

    registry.answers(
        "PUT /v2/order/manifests/1",
        405,
        &[],
        r#"{"errors":[{"message":"tags are immutable\u001b[31m"}]}"#,
    );
    let error = push(&Credentials::default(), &registry.tag(), wasm.clone()).await.expect_err("it is not taken");
    assert!(
        error.to_string().contains(r"refuses it with 405 Method Not Allowed (it says: tags are immutable\u{1b}[31m)"),
        "{error}"
    );
    let error = push(&Credentials::default(), &registry.tag().at(expected), wasm).await.expect_err("no tag");
    assert!(matches!(error, PushError::NoTag { .. }), "{error}");
}
