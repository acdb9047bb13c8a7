use super::*;
use std::path::Path;

const OLD: &str = r#"
[app]
name = "shop"

[services.user]
component = "user.wasm"

[services.order]
component = "order.wasm"
calls = ["user", "pay"]
publishes = ["order.created"]
config = { currency = "EUR", old = "1" }
secrets = { key = "env:KEY" }

[services.letters]
component = "mail.wasm"
subscribes = ["order.created"]

[services.audit]
component = "audit.wasm"
database = true
subscribes = ["order.created"]

[services.travel]
component = "travel.wasm"
database = true
sagas = { concurrency = 16 }

[services.pay]
endpoints = ["http://10.0.0.1:8080"]

[topics."order.created"]
[topics."tick"]
cron = "0 3 * * *"

[[gateway.routes]]
path = "/orders/{*rest}"
service = "order"

[[gateway.routes]]
path = "/mails"
methods = ["GET"]
service = "letters"

[policy.defaults]
deadline = "5s"
"#;

const NEW: &str = r#"
[app]
name = "shop"

[services.user]
component = "user.wasm"
buckets = ["sessions"]

[services.order]
component = "order.wasm"
calls = ["user", "pay", "payment"]
publishes = ["order.created", "order.paid"]
config = { currency = "USD", new = "2" }
secrets = { key = "env:OTHER_KEY" }
instances = { max = 8 }
limits = { memory = "128MiB", cpu = "1s" }

[services.payment]
component = "payment.wasm"

[services.travel]
component = "travel.wasm"
database = true
sagas = { attempts = 9, max-backoff = "30s", keep = "1h" }

[services.audit]
component = "audit.wasm"
subscribes = [{ topic = "order.created", attempts = 9, order = "none" }, "order.paid"]

[services.pay]
endpoints = ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]
balance = "least-loaded"

[services.tax]
endpoints = ["http://10.0.0.3:8080"]

[topics."order.created"]
[topics."order.paid"]
[topics."tick"]
cron = "0 4 * * *"

[[gateway.routes]]
path = "/orders/{*rest}"
service = "order"
deadline = "2s"
max-body-bytes = "64KiB"

[[gateway.routes]]
path = "/pay"
service = "payment"

[policy.defaults]
deadline = "5s"

[events]
limit = "8GiB"
keep = { age = "1h" }

[policy.edges."order -> user"]
deadline = "2s"
retry = { attempts = 5 }
breaker = false
"#;

fn read(text: &str) -> Manifest {
    Manifest::parse(text, Path::new("wharf.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn a_plan_names_everything_that_comes_changes_and_goes() {
    let aside = Aside {
        components: [
            ("order".into(), (Some("1a2b3c4d5e6f7081".into()), "9f3c9f3c9f3c9f3c".into())),
            ("payment".into(), (None, "00aa00aa00aa00aa".into())),
        ]
        .into(),
        secrets: ["user".into()].into(),
        sagas: BTreeSet::new(),
        certificates: BTreeSet::new(),
        document: false,
    };
    let plan = Plan { id: String::new(), changes: changes(&read(OLD), &read(NEW), &aside) };
    let expected = "\
~ services.audit: database true -> false, subscribes +order.paid, subscribes.order.created.attempts 5 -> 9, \
subscribes.order.created.order subject -> none
- services.letters
~ services.order: component 1a2b3c4d5e6f -> 9f3c9f3c9f3c, calls +payment, publishes +order.paid, \
config.currency \"EUR\" -> \"USD\", config.new none -> \"2\", config.old \"1\" -> none, other secrets.key, \
instances.max 16 -> 8, limits.memory 64 MiB -> 128 MiB, limits.cpu 500ms -> 1s
+ services.payment (new)
~ services.travel: sagas.attempts 5 -> 9, sagas.max-backoff 60s -> 30s, sagas.concurrency 16 -> 128, sagas.keep 604800s -> 3600s
~ services.user: buckets +sessions, secrets have other values
~ services.pay: endpoints +http://10.0.0.2:8080, balance round-robin -> least-loaded
+ services.tax (new): outside
+ topics.order.paid (new)
~ topics.tick: other schedule
~ events: keep.age 604800s -> 3600s, limit 4 GiB -> 8 GiB
~ route /orders/{*rest}: max-body-bytes 1 MiB -> 64 KiB, deadline none -> 2s
+ route /pay (new)
- route GET /mails
~ policy order -> user: deadline 5s -> 2s, retry.attempts 3 -> 5, breaker true -> false
";
    assert_eq!(plan.to_string(), expected, "{plan}");
}

#[test]
fn nothing_is_planned_where_the_manifest_only_looks_otherwise() {
    let looks = OLD.replace("[services.user]", "# The users.\n[services.user]\nlimits = { memory = \"64MiB\" }");
    assert_eq!(changes(&read(OLD), &read(&looks), &Aside::default()), []);
}

#[test]
fn a_plan_is_read_back_as_it_was_told() {
    let changes = changes(&read(NEW), &read(OLD), &Aside::default());
    let plan = Plan { id: "0123".into(), changes };
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
}

#[test]
fn a_plan_says_where_mail_goes_and_who_sends_it() {
    let from =
        |sender: &str| OLD.replace("[services.user]", &format!("[services.user]\nmail = {{ from = \"{sender}\" }}"));
    let told = |old: &str, new: &str| {
        let all = changes(&read(old), &read(new), &Aside::default());
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(OLD, &from("a@b.c")), ["~ services.user: mail.from none -> a@b.c"]);
    assert_eq!(told(&from("a@b.c"), &from("Shop <a@b.c>")), ["~ services.user: mail.from a@b.c -> Shop <a@b.c>"]);
    let server = |more: &str| format!("{OLD}\n[mail]\nsmtp = \"smtp.example.com:587\"\n{more}");
    assert_eq!(told(OLD, &server("")), ["~ mail: to the folder .wharf/mail -> smtp.example.com:587"]);
    let login = server("username = \"shop\"\npassword = \"env:PASSWORD\"");
    assert_eq!(told(&server(""), &login), ["~ mail: other settings of the server"]);
}

#[test]
fn another_document_is_told_by_its_file_and_its_place_or_by_what_it_says() {
    let with = |document: &str| read(&format!("{OLD}\n{document}"));
    let document = |path: &str, file: &str| format!("[gateway.document]\npath = \"{path}\"\nfile = \"{file}\"\n");
    let (none, one) = (with(""), with(&document("/a.json", "/srv/a.json")));
    let told = |old: &Manifest, new: &Manifest, document| {
        let aside = Aside { document, ..Aside::default() };
        Plan { id: String::new(), changes: changes(old, new, &aside) }.to_string()
    };
    assert_eq!(told(&none, &one, false), "~ gateway: document none -> /srv/a.json at /a.json\n");
    assert_eq!(told(&one, &one, true), "~ gateway: the document says something else\n");
    assert_eq!(told(&one, &one, false), "");
}
