use std::{env, fmt::Write, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::events::{DeliveryOrder, DeliveryPolicy, Durability, Retention};
use crate::mail::Tls;
use crate::policy::{
    Backoff, Balance, BalancePolicy, BreakerMode, BreakerParams, BreakerPolicy, BudgetPolicy, BulkheadPolicy,
    FailureParams, FailurePolicy, FaultKind, FunctionList, HealthParams, HealthPolicy, InjectPolicy, OutlierPolicy,
    PolicyParams, RateLimitKey, RateLimitParams, RateLimitPolicy, RetryParams, RetryPolicy, StatusSet, WindowSize,
};

const EXAMPLE: &str = include_str!("../../../wharf.toml");

/// Manifests that are wrong, each with all that is said about it. Blocks of `=== title`, the manifest, `---`, the
/// errors. Written anew where `WHARF_UPDATE_GOLDEN` is set; what changed is then to be read.
const BAD: &str = include_str!("bad-manifests.golden");
const BAD_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manifest/bad-manifests.golden");

fn parse(text: &str) -> Result<Manifest, String> {
    Manifest::parse(text, Path::new("wharf.toml")).map_err(|errors| errors.to_string())
}

fn valid(text: &str) -> Manifest {
    parse(&complete("", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What a case leaves out, put behind it so that its lines keep their numbers.
fn complete(title: &str, text: &str) -> String {
    let mut whole = text.to_owned();
    for (table, content) in [("[app]", "name = \"shop\""), ("[services.user]", "component = \"user.wasm\"")] {
        if !title.starts_with("whole:") && !text.contains(table) {
            write!(whole, "\n{table}\n{content}\n").expect("a string takes all");
        }
    }
    whole
}

#[test]
fn everything_wrong_is_reported_where_it_stands() {
    let mut current = String::new();
    for block in BAD.split("=== ").skip(1) {
        let (title, rest) = block.split_once('\n').expect("a title has a line of its own");
        let text = rest.split_once("---\n").map_or(rest, |(text, _)| text);
        let said = parse(&complete(title, text)).map_or_else(|errors| errors, |_| "nothing is wrong".into());
        writeln!(current, "=== {title}\n{text}---\n{said}\n").expect("a string takes all");
    }
    let current = current.trim_end().to_owned() + "\n";
    if env::var_os("WHARF_UPDATE_GOLDEN").is_some() {
        std::fs::write(BAD_PATH, &current).expect("the golden file can be written");
    } else {
        for (expected, found) in BAD.split("=== ").zip(current.split("=== ")) {
            assert_eq!(expected, found);
        }
        assert_eq!(BAD, current);
    }
}

#[test]
fn the_example_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../wharf.toml"));
    let manifest = Manifest::load(path).unwrap_or_else(|errors| panic!("{errors}"));
    let folder = path.parent().expect("a file is in a folder");
    assert_eq!(manifest.app.name, "shop");
    assert_eq!(manifest.app.data.value, folder.join(".wharf"));
    assert_eq!(
        manifest.admin,
        Admin::Socket(Placed { value: folder.join(".wharf/admin.sock"), key: "admin.socket".into(), place: None })
    );
    assert_eq!(
        manifest.services.keys().collect::<Vec<_>>(),
        ["checkout", "inventory", "notification", "order", "payment", "product", "user"]
    );
    assert_eq!(manifest.services["user"].component.path(), Some(&*folder.join("components/user")));
    assert_eq!(manifest.bus, Bus::Embedded(Durability::Os));
    assert_eq!(manifest.retention, Retention::default());
    assert_eq!(manifest.gateway.routes.len(), 14);
    assert_eq!(manifest.edge_policy("order", "user").params().deadline, Duration::from_secs(1));
    assert_eq!(manifest.edge_policy("gateway", "user").params().deadline, Duration::from_secs(5));
    let edges: Vec<_> = manifest.edges().iter().map(Edge::to_string).collect();
    assert_eq!(
        edges,
        [
            "checkout -> inventory",
            "checkout -> order",
            "checkout -> payment",
            "events -> inventory",
            "events -> notification",
            "events -> product",
            "gateway -> checkout",
            "gateway -> inventory",
            "gateway -> notification",
            "gateway -> order",
            "gateway -> payment",
            "gateway -> product",
            "gateway -> user",
            "notification -> mail",
            "order -> product",
            "order -> user",
            "sagas -> checkout",
            "sagas -> inventory",
            "sagas -> notification",
            "sagas -> order",
            "sagas -> payment",
            "sagas -> product",
            "sagas -> user",
        ]
    );
}

#[test]
fn what_is_not_written_has_its_default() {
    let manifest = valid("");
    assert_eq!(manifest.gateway.listen.value.to_string(), "127.0.0.1:3000");
    assert_eq!(manifest.gateway.max_header_bytes, 16 << 10);
    assert_eq!(manifest.gateway.max_body_bytes, 1 << 20);
    assert_eq!(manifest.gateway.header_timeout, Duration::from_secs(10));
    assert_eq!(manifest.gateway.max_connections, 10_000);
    let user = &manifest.services["user"];
    assert_eq!(user.instances, Instances { max: 16, concurrency: 16, reuse: 100_000, queue: 1024 });
    assert_eq!(user.limits, Limits { memory: 64 << 20, tables: 20_000, cpu: Duration::from_millis(500) });
    assert!(user.database.is_none() && user.calls.is_empty() && user.outbound.is_empty());
    assert_eq!(*manifest.edge_policy("gateway", "user"), Policy::default());
}

#[test]
fn an_edge_starts_from_the_defaults_and_changes_what_it_names() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        calls = ["user"]
        outbound = ["https://API.example.com:443"]
        [policy.defaults]
        deadline = "3s"
        retry = { attempts = 2 }
        breaker = false
        [policy.edges."order -> user"]
        retry = { backoff = "1ms" }
        breaker = { failures = 9 }
        bulkhead = false
        [policy.edges."order -> https://api.example.com"]
        deadline = "9s"
        "#,
    );
    let retry = RetryParams { attempts: 2, backoff: Duration::from_millis(1), ..RetryParams::default() };
    let breaker = BreakerParams { failures: Some(9), ..BreakerParams::default() };
    let expected = Policy::try_new(PolicyParams {
        deadline: Duration::from_secs(3),
        retry: RetryPolicy::try_new(retry).expect("a valid policy"),
        breaker: Some(BreakerPolicy::try_new(breaker).expect("a valid policy")),
        bulkhead: None,
        ..PolicyParams::default()
    });
    let expected = expected.expect("a valid policy");
    assert_eq!(*manifest.edge_policy("order", "user"), expected);
    assert_eq!(manifest.policies.defaults.params().breaker, None);
    let origin = manifest.services["order"].outbound[0].to_string();
    assert_eq!(manifest.edge_policy("order", &origin).params().deadline, Duration::from_secs(9));
}

#[test]
fn a_policy_says_all_that_an_edge_does() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        calls = ["user"]
        [policy.edges."order -> user"]
        failure = { faults = ["trapped", "unreachable"], status = ["5xx", "429"], slow = "300ms" }
        retry = { status = ["503"], budget = { percent = 30, min-per-second = 1 }, idempotent = ["find"] }
        bulkhead = { concurrent = 3, queue = 0 }
        inject = { percent = 5, delay = "1s", fault = "overloaded" }
        [policy.edges."order -> user".breaker]
        mode = "metrics-only"
        failures = false
        failure-rate = 50
        slow-rate = 80
        window = "10s"
        minimum = 7
        open = "1s"
        max-open = "1m"
        half-open = 4
        "#,
    );
    let (second, status) = (Duration::from_secs(1), |patterns: &[&str]| StatusSet::try_new(patterns.iter().copied()));
    let failure = FailureParams {
        faults: vec![FaultKind::Trapped, FaultKind::Unreachable],
        status: status(&["5xx", "429"]).expect("statuses"),
        slow: Some(Duration::from_millis(300)),
    };
    let retry = RetryParams {
        status: status(&["503"]).expect("a status"),
        budget: Some(BudgetPolicy::try_new(30, 1).expect("a valid policy")),
        idempotent: vec!["find".into()],
        ..RetryParams::default()
    };
    let breaker = BreakerParams {
        mode: BreakerMode::MetricsOnly,
        failures: None,
        failure_rate: Some(50),
        slow_rate: Some(80),
        window: WindowSize::Time(10 * second),
        minimum: Some(7),
        open: second,
        max_open: Some(60 * second),
        half_open: 4,
    };
    let expected = Policy::try_new(PolicyParams {
        failure: FailurePolicy::try_new(failure).expect("a valid policy"),
        retry: RetryPolicy::try_new(retry).expect("a valid policy"),
        breaker: Some(BreakerPolicy::try_new(breaker).expect("a valid policy")),
        bulkhead: Some(BulkheadPolicy::try_new(3, 0).expect("a valid policy")),
        inject: InjectPolicy::try_new(5, Some(second), Some(FaultKind::Overloaded)).ok(),
        ..PolicyParams::default()
    });
    assert_eq!(*manifest.edge_policy("order", "user"), expected.expect("a valid policy"));
}

#[test]
fn fixed_results_of_functions_are_read_with_their_places() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        calls = ["user"]
        [policy.edges."order -> user".fallback.fixed-results]
        find = 'some({id: "0"})'
        "shop:users/directory.list" = "[]"
        "#,
    );
    let policy = manifest.edge_policy("order", "user").params();
    let results = policy.fallback.params().fixed_results.iter();
    let results: Vec<_> = results.map(|result| (result.function.as_str(), result.value.as_str())).collect();
    assert_eq!(results, [("find", r#"some({id: "0"})"#), ("shop:users/directory.list", "[]")]);
    let written = &manifest.policies.functions[&Edge::new("order", "user")];
    let key = r#"policy.edges."order -> user".fallback.fixed-results."shop:users/directory.list""#;
    let (list, name) = &written[1];
    assert_eq!(*list, FunctionList::FixedResults);
    assert_eq!((name.place.map(|place| place.line), name.key.as_str()), (Some(7), key));
    assert!(manifest.policies.defaults.params().fallback.params().fixed_results.is_empty());
}

#[test]
fn of_functions_in_lists_those_are_known_that_an_edge_names_itself() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        calls = ["user"]
        [policy.defaults]
        retry = { idempotent = ["list"] }
        fallback = { stale = { functions = ["list"] } }
        [policy.edges."order -> user"]
        retry = { idempotent = ["find"] }
        fallback = { stale = { max-age = "1s" } }
        "#,
    );
    let written = &manifest.policies.functions[&Edge::new("order", "user")];
    let written: Vec<_> =
        written.iter().map(|(list, name)| (*list, &*name.value, &*name.key, name.place.map(|it| it.line))).collect();
    let key = r#"policy.edges."order -> user".retry.idempotent"#;
    assert_eq!(written, [(FunctionList::Idempotent, "find", key, Some(9))]);
    let stale = manifest.edge_policy("order", "user").params().fallback.params().stale.clone();
    assert_eq!(stale.map(|stale| stale.functions), Some(vec!["list".to_owned()]));
}

#[test]
fn a_route_has_the_gateways_rate_limit_unless_it_says_something_else() {
    let manifest = valid(
        r#"
        [gateway]
        rate-limit = { requests = 100, per = "1s", burst = 20 }
        [[gateway.routes]]
        path = "/same"
        service = "user"
        [[gateway.routes]]
        path = "/less"
        service = "user"
        idempotent = true
        rate-limit = { requests = 5, key = "header:X-Api-Key" }
        [[gateway.routes]]
        path = "/none"
        service = "user"
        rate-limit = false
        [[gateway.aggregates]]
        path = "/all"
        rate-limit = { key = "route" }
        parts.user = { service = "user", path = "/" }
        "#,
    );
    let limit = |requests, key| {
        let params = RateLimitParams { requests, per: Duration::from_secs(1), burst: Some(20), key };
        Some(RateLimitPolicy::try_new(params).expect("a valid policy"))
    };
    let gateway = &manifest.gateway;
    let of_routes: Vec<_> = gateway.routes.iter().map(|route| route.rate_limit.clone()).collect();
    let header = RateLimitKey::Header("x-api-key".into());
    assert_eq!(of_routes, [limit(100, RateLimitKey::Client), limit(5, header), None]);
    assert_eq!(gateway.aggregates[0].rate_limit, limit(100, RateLimitKey::Route));
    assert_eq!(gateway.routes.iter().map(|route| route.idempotent).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(valid("[[gateway.routes]]\npath = \"/\"\nservice = \"user\"").gateway.routes[0].rate_limit, None);
}

#[test]
fn a_service_names_who_signs_it_or_the_application_does() {
    let (all, own) = (
        "ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=",
        "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",
    );
    let manifest = valid(&format!(
        "[app]\nname = \"shop\"\nsigned-by = [\"{all}\"]\n[services.order]\ncomponent = \"order.wasm\"\n\
         signed-by = [\"{own}\", \"{all}\"]"
    ));
    let of = |service: &str| {
        let keys = &manifest.services[service].signed_by;
        keys.iter().map(|key| (key.value.to_string(), key.key.clone())).collect::<Vec<_>>()
    };
    let order = "services.order.signed-by".to_owned();
    assert_eq!(of("order"), [(own.to_owned(), order.clone()), (all.to_owned(), order)]);
    assert_eq!(of("user"), [(all.to_owned(), "app.signed-by".to_owned())]);
    assert_eq!(valid("").services["user"].signed_by, []);
}

#[test]
fn a_component_is_a_file_or_in_a_registry() {
    let manifest = valid("[services.order]\ncomponent = \"oci://ghcr.io/shop/order:1.2\"");
    let Component::Registry(reference) = &manifest.services["order"].component else { panic!("{manifest:?}") };
    assert_eq!(reference.to_string(), "oci://ghcr.io/shop/order:1.2");
    assert_eq!(manifest.error_at(reference, "gone").to_string(), "wharf.toml:2: services.order.component: gone");
    assert_eq!(manifest.services["order"].component.path(), None);
}

#[test]
fn a_service_outside_is_called_like_one_here() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        calls = ["payment", "letters"]
        [services.payment]
        endpoints = ["http://127.0.0.1:9001", "https://Pay.example.com"]
        balance = "least-loaded"
        outlier = { failures = 3, open = "1s", max-open = false, max-ejected = 100 }
        health = { path = "/health?deep=1", interval = "500ms" }
        [services.letters]
        dns = "http://mail.example.com:8025"
        refresh = "5s"
        outlier = false
        [services.vault]
        endpoints = ["https://vault.internal.example.com"]
        ca = "certs/ca.pem"
        [[gateway.routes]]
        path = "/pay"
        service = "payment"
        [policy.edges."order -> payment"]
        deadline = "1s"
        "#,
    );
    let edges: Vec<_> = manifest.edges().iter().map(Edge::to_string).collect();
    assert_eq!(edges, ["gateway -> payment", "order -> letters", "order -> payment"]);
    let payment = &manifest.external["payment"];
    let Addresses::List(origins) = &payment.addresses else { panic!("expected a list, found {payment:?}") };
    let origins: Vec<_> = origins.iter().map(|origin| origin.to_string()).collect();
    assert_eq!(origins, ["http://127.0.0.1:9001", "https://pay.example.com"]);
    let breaker = BreakerParams { failures: Some(3), open: Duration::from_secs(1), ..BreakerParams::default() };
    let breaker = BreakerPolicy::try_new(breaker).expect("a valid policy");
    let half_second = Duration::from_millis(500);
    // A probe ends before the next is due.
    let health = HealthParams { interval: half_second, timeout: half_second, ..HealthParams::default() };
    let expected = BalancePolicy {
        balance: Balance::LeastLoaded,
        outlier: OutlierPolicy::try_new(breaker, 100).ok(),
        health: HealthPolicy::try_new(health).ok(),
    };
    assert_eq!((payment.balance, payment.probe.as_deref()), (expected, Some("/health?deep=1")));

    let letters = &manifest.external["letters"];
    assert_eq!(letters.balance, BalancePolicy::default());
    assert_eq!((letters.probe.as_deref(), &letters.ca), (None, &None));
    let ca = manifest.external["vault"].ca.as_ref().expect("it has one");
    assert_eq!((ca.value.as_path(), &*ca.key), (Path::new("certs/ca.pem"), "services.vault.ca"));
    let Addresses::Dns { origin, refresh } = &letters.addresses else { panic!("expected a name, found {letters:?}") };
    assert_eq!((origin.to_string().as_str(), *refresh), ("http://mail.example.com:8025", Duration::from_secs(5)));
    let untold = valid("[services.letters]\ndns = \"http://mail\"");
    assert_eq!(untold.external["letters"].balance.outlier, Some(OutlierPolicy::default()));
}

#[test]
fn mail_goes_into_a_folder_or_to_a_server() {
    let folder = valid("[app]\nname = \"shop\"\ndata = \"d\"").mail;
    assert_eq!(folder.to_string(), "the folder d/mail");
    assert_eq!(valid("[mail]\nfolder = \"out\"").mail.to_string(), "the folder out");
    let server = |text: &str| match valid(&format!("[mail]\n{text}")).mail {
        Mail::Server(server) => server,
        other => panic!("expected a server, found {other:?}"),
    };
    let plain = server("smtp = \"smtp.example.com:587\"");
    assert_eq!((&*plain.address.host, plain.address.port), ("smtp.example.com", 587));
    assert_eq!((plain.tls, plain.login, plain.timeout), (Tls::StartTls, None, Duration::from_secs(20)));
    assert_eq!(server("smtp = \"smtp.example.com:465\"").tls, Tls::Implicit);
    assert_eq!(server("smtp = \"[::1]:25\"\ntls = \"none\"").address.value.to_string(), "[::1]:25");
    for loopback in ["localhost:25", "127.0.0.2:25"] {
        assert_eq!(server(&format!("smtp = \"{loopback}\"\ntls = \"none\"")).tls, Tls::None);
    }
    assert_eq!(server("smtp = \"relay:25\"\ntls = \"none\"\nplaintext = true").tls, Tls::None);
    let text = "smtp = \"a:587\"\nusername = \"shop\"\npassword = \"env:P\"\nca = \"ca.pem\"\ntimeout = \"3s\"";
    let whole = server(text);
    let (username, password) = whole.login.expect("it has one");
    assert_eq!((&*username, password.value), ("shop", SecretRef::Env("P".into())));
    assert_eq!((whole.ca.expect("it has one").value, whole.timeout), ("ca.pem".into(), Duration::from_secs(3)));

    let sends = valid(
        r#"
        [services.user]
        component = "user.wasm"
        mail = { from = "The Shop <shop@example.com>" }
        [policy.edges."user -> mail"]
        deadline = "9s"
        "#,
    );
    let from = sends.services["user"].mail.as_ref().expect("it may send");
    assert_eq!((from.name(), from.address()), (Some("The Shop"), "shop@example.com"));
    assert_eq!(sends.edge_policy("user", MAIL).params().deadline, Duration::from_secs(9));
    assert!(sends.edges().contains(&Edge::new("user", MAIL)));
}

#[test]
fn what_goes_wrong_later_is_reported_at_its_line() {
    let manifest = valid("[services.user]\ncomponent = \"no.wasm\"");
    let component = manifest.services["user"].component.place();
    let error = manifest.error_at(&component, "there is no such file").to_string();
    assert_eq!(error, "wharf.toml:2: services.user.component: there is no such file");
    let error = manifest.error_at(&manifest.gateway.listen, "the port is in use").to_string();
    assert_eq!(error, "wharf.toml: gateway.listen: the port is in use");
}

#[test]
fn columns_count_characters() {
    let manifest = valid("[services.user]\nconfig = { \"ü\" = \"ö\" }\ncomponent = \"no.wasm\"\n[topics.\"a.b\"]");
    assert_eq!(manifest.services["user"].component.place().place, Some(Place { line: 3, column: 13 }));
    assert_eq!(manifest.topics["a.b"].name.place, Some(Place { line: 4, column: 9 }));
}

#[test]
fn paths_start_at_the_manifests_folder() {
    let text = complete("", "[app]\nname = \"shop\"\ndata = \"/var/shop\"\n[admin]\nsocket = \"run/a.sock\"");
    let manifest = Manifest::parse(&text, Path::new("etc/shop/wharf.toml")).expect("it is valid");
    assert_eq!(manifest.app.data.value, Path::new("/var/shop"));
    assert!(matches!(&manifest.admin, Admin::Socket(socket) if socket.value == Path::new("etc/shop/run/a.sock")));
    assert_eq!(manifest.services["user"].component.path(), Some(Path::new("etc/shop/user.wasm")));
}

#[test]
fn a_subscription_says_how_its_events_are_delivered() {
    let manifest = valid(
        r#"
        [services.order]
        component = "order.wasm"
        database = true
        subscribes = [
          "a",
          { topic = "b", attempts = 10, backoff = "2s", max-backoff = "5m", concurrency = 4, in-flight = 1000,
            order = "none", deduplicate = true },
          { topic = "c", in-flight = 3, backoff = "2m" },
        ]
        [topics.a]
        [topics.b]
        [topics.c]
        "#,
    );
    let [a, b, c] = &manifest.services["order"].subscribes[..] else { panic!("three subscriptions") };
    let base = DeliveryPolicy::default();
    assert_eq!((a.topic.as_str(), &a.policy), ("a", &base));
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let expected = DeliveryPolicy {
        concurrency: 4,
        capacity: 1000,
        max_attempts: 10,
        backoff: Backoff { first: 2 * second, max: 5 * minute, ..base.backoff },
        order: DeliveryOrder::None,
        deduplicate: true,
        ..base.clone()
    };
    assert_eq!((b.topic.as_str(), &b.policy), ("b", &expected));
    assert_eq!(b.topic.place.map(|place| place.line), Some(7));
    // What is not written gives way to what is.
    assert_eq!((c.policy.concurrency, c.policy.capacity, c.policy.backoff.max), (3, 3, 2 * minute));
    assert_eq!(c.policy.validate(), Ok(()));
}

#[test]
fn events_are_kept_as_long_as_is_said() {
    let day = Duration::from_secs(24 * 3600);
    let manifest = valid("[events]\ndurability = \"fsync\"\nkeep = { age = \"30d\", size = \"8GiB\" }");
    assert_eq!(manifest.bus, Bus::Embedded(Durability::Fsync));
    assert_eq!(manifest.retention, Retention { age: 30 * day, size: 8 << 30, limit: 8 << 30 });
    let manifest = valid("[events]\nlimit = \"64MiB\"");
    assert_eq!(manifest.retention, Retention { age: 7 * day, size: 64 << 20, limit: 64 << 20 });
}

#[test]
fn a_topic_can_come_by_the_clock() {
    let manifest = valid(
        r#"
        [topics."report.due"]
        cron = "30  2 * * MON-FRI"
        timezone = "Europe/Berlin"
        subject = "daily"
        data = '{"kind": "daily"}'
        [topics."tick"]
        cron = "* * * * *"
        [topics."order.created"]
        "#,
    );
    let schedule = manifest.topics["report.due"].schedule.as_ref().expect("a schedule");
    let next = schedule.cron.next_after("2026-11-27T12:00:00Z".parse().expect("a time"));
    assert_eq!(next.map(|at| at.to_string()).as_deref(), Some("2026-11-30T01:30:00Z"));
    assert_eq!((schedule.cron.as_str(), &*schedule.topic), ("30 2 * * MON-FRI", "report.due"));
    assert_eq!(schedule.subject.as_deref(), Some("daily"));
    assert_eq!(schedule.data.as_deref(), Some(&br#"{"kind": "daily"}"#[..]));
    assert!(manifest.topics["tick"].schedule.is_some());
    assert_eq!(manifest.topics["order.created"].schedule, None);
}

#[test]
fn redis_alone_means_streams_and_its_password_is_not_shown() {
    let manifest = valid("[events]\nredis = \"redis://:hunter2@localhost\"");
    assert!(!format!("{manifest:?}").contains("hunter2"));
    let Bus::RedisStreams(url, sharing) = &manifest.bus else { panic!("expected streams, found {:?}", manifest.bus) };
    assert_eq!(url.resolve().expect("it is written out").expose(), "redis://:hunter2@localhost");
    assert_eq!(*sharing, Sharing::default());
    let written = "bus = \"redis-streams\"\npartitions = 32\nlease = \"30s\"\ntrim = \"5m\"";
    let manifest = valid(&format!("[events]\nredis = \"redis://localhost\"\n{written}"));
    let Bus::RedisStreams(_, sharing) = &manifest.bus else { panic!("expected streams, found {:?}", manifest.bus) };
    let (lease, trim) = (Duration::from_secs(30), Duration::from_secs(300));
    assert_eq!(*sharing, Sharing { partitions: 32, lease, trim });
    let manifest = valid("[events]\nbus = \"redis-pubsub\"\nredis = \"env:REDIS\"");
    let Bus::RedisPubsub(url) = &manifest.bus else { panic!("expected pubsub, found {:?}", manifest.bus) };
    assert_eq!(url.value, ServerUrl::Kept(SecretRef::Env("REDIS".into())));
}

#[test]
fn a_file_that_is_no_manifest_is_refused() {
    let folder = env::temp_dir().join(format!("wharf-manifest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let path = folder.join("wharf.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("the temporary folder is writable");
        let error = Manifest::load(&path).expect_err("it is no manifest").to_string();
        error.replace(&*path.to_string_lossy(), "wharf.toml")
    };
    assert_eq!(load(b"[app]\nname = \"\xff\""), "wharf.toml: the manifest is not UTF-8 text: see line 2");
    assert_eq!(load(&vec![b'\n'; (1 << 20) + 1]), "wharf.toml: the manifest is longer than 1024 KiB");
    let gone = Manifest::load(&folder.join("gone.toml")).expect_err("it is not there").to_string();
    assert!(gone.contains("gone.toml: the manifest cannot be read: No such file"), "{gone}");
    let folder_error = Manifest::load(&folder).expect_err("it is a folder").to_string();
    assert!(folder_error.contains("the manifest cannot be read"), "{folder_error}");
    std::fs::remove_dir_all(&folder).expect("it was just made");
}

#[test]
fn deep_nesting_is_refused_and_not_followed_to_the_stacks_end() {
    for text in ["[".repeat(500_000), "x = ".to_owned() + &"[".repeat(500_000), "a.".repeat(250_000) + "b = 1"] {
        assert!(parse(&text).is_err());
    }
}

/// Pieces that break the example in more ways than single characters do.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    "\n",
    ".",
    ",",
    "->",
    "{*rest}",
    "{id}",
    "//",
    "0",
    "-1",
    "\"0s\"",
    "true",
    "\u{0}",
    "ü",
    "\u{202e}",
    "\\u001b",
    "99999999999999999999",
];

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn any_mutation_of_the_example_is_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..20, 0usize..PIECES.len()), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = Manifest::parse(&text, Path::new("wharf.toml")) {
            let lines = text.matches('\n').count() + 1;
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| error.place.is_none_or(|place| place.line <= lines)));
            prop_assert!(errors.to_string().chars().all(|c| c == '\n' || !c.is_control()));
        }
    }

    #[test]
    fn lines_of_the_example_in_any_order_are_read_or_refused(
        lines in Just(EXAMPLE.lines().collect::<Vec<_>>()).prop_shuffle(),
        kept in 1usize..60,
    ) {
        let _ = parse(&lines[..kept.min(lines.len())].join("\n"));
    }
}

#[test]
fn databases_are_in_files_or_on_a_server() {
    let manifest = valid("[services.a]\ncomponent = \"a.wasm\"\ndatabase = true");
    assert_eq!((&manifest.store, &manifest.services["a"].database), (&Store::Files, &Some(ServiceDatabase::default())));
    let manifest = valid(
        "[store]\nurl = \"postgres://ada:hunter2@localhost/shop\"\n[services.a]\ncomponent = \"a.wasm\"\n\
         database = { url = \"env:A_URL\", connections = 3 }",
    );
    let Store::Server(store) = &manifest.store else { panic!("{:?}", manifest.store) };
    assert_eq!((store.connections, &store.certificates), (32, &None));
    assert_eq!(store.url.resolve().expect("it is written out").expose(), "postgres://ada:hunter2@localhost/shop");
    assert!(!format!("{manifest:?}").contains("hunter2"));
    let database = manifest.services["a"].database.as_ref().expect("it has one");
    assert_eq!(database.connections.as_ref().map(|it| it.value), Some(3));
    assert!(matches!(database.url.as_ref().map(|it| &it.value), Some(ServerUrl::Kept(_))));
}
