//! `[services.<name>]`: what each service is built from, may reach and may use.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    App,
    error::Placed,
    external::{self, EITHER, ExternalService},
    mail,
    origin::Origin,
    policy::{EVENTS, GATEWAY, MAIL, SAGAS},
    reader::{Document, Table, Value, quoted},
    rollout,
    sagas::Sagas,
    secrets::Secrets,
    signed_by,
    store::ServiceDatabase,
    subscription::Subscription,
    values::{SHORTEST, is_plain_name},
};
use crate::{mail::Mailbox, oci::Reference, policy::RolloutPolicy, trust::PublicKey};

/// A service that runs here, as a component.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name: at most 63 lower-case letters, digits and inner hyphens, a letter first.
    pub name: Placed<String>,
    /// Where its component comes from.
    pub component: Component,
    /// Of these keys one must have signed the component: its own, or the application's; none: nobody has to.
    pub signed_by: Vec<Placed<PublicKey>>,
    /// The database of its own, if it has one.
    pub database: Option<ServiceDatabase>,
    /// The buckets that it may open by `wasi:keyvalue`.
    pub buckets: Vec<Placed<String>>,
    /// The topics that it may publish to; all are declared.
    pub publishes: Vec<Placed<String>>,
    /// The topics whose events are delivered to it, and how.
    pub subscribes: Vec<Subscription>,
    /// The topics whose events its sagas may wait for; all are declared.
    pub awaits: Vec<Placed<String>>,
    /// How its sagas are gone through, where its component has some.
    pub sagas: Sagas,
    /// The services that it may call, external ones too; all exist.
    pub calls: Vec<Placed<String>>,
    /// The origins outside that it may send requests to.
    pub outbound: Vec<Placed<Origin>>,
    /// In whose name it may send mail, if it may.
    pub mail: Option<Placed<Mailbox>>,
    /// What it reads by `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// What it reads by `wasi:config` as well; no key is in `config` too.
    pub secrets: Secrets,
    /// How many instances run its calls.
    pub instances: Instances,
    /// What one instance may use.
    pub limits: Limits,
    /// How a new revision comes to get its calls.
    pub rollout: RolloutPolicy,
}

/// Where a component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// It is built from source.
    Source(Source),
    /// It is ready: a `.wasm` file.
    File(Placed<PathBuf>),
    /// It is ready, in a registry.
    Registry(Placed<Reference>),
}

/// How a component is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The folder of the source, a crate unless `build` says how else.
    pub folder: Placed<PathBuf>,
    /// The shell command that builds it; cargo for wasm32-wasip2 if there is none.
    pub build: Option<Placed<String>>,
    /// The `.wasm` that comes of it; where cargo puts it if there is none.
    pub artifact: Option<Placed<PathBuf>>,
}

/// How many instances run a service's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Instances in the pool; at least 1.
    pub max: usize,
    /// Calls at a time in one instance; at least 1.
    pub concurrency: usize,
    /// Calls after which an instance is retired; at least 1.
    pub reuse: u64,
    /// Calls that may wait for an instance; 0 means that none waits.
    pub queue: usize,
}

/// What one instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its linear memories together.
    pub memory: u64,
    /// Elements of all its tables together.
    pub tables: usize,
    /// The longest uninterrupted stretch of computing.
    pub cpu: Duration,
}

const RESERVED: [&str; 5] = [GATEWAY, EVENTS, SAGAS, MAIL, "wharf"];
const CONFIG_KEY_LENGTH: usize = 256;
const BUCKET_LENGTH: usize = 63;
/// The longest stretch of computing that can be allowed: beyond it neighbours and deadlines suffer.
const LONGEST_CPU: Duration = Duration::from_secs(60);

/// What is wrong with the name of an application or a service, if anything.
pub(super) fn wrong_name(name: &str) -> Option<String> {
    let good = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let rule = "expected a name of at most 63 lower-case letters, digits and inner hyphens that starts with a letter";
    (!good).then(|| format!("{rule}, found {}", quoted(name)))
}

/// Reads all services: those that run here, and those outside. A name that is no good is reported, and its service read all
/// the same.
pub(super) fn read(
    table: Table<'_>,
    app: &App,
    doc: &Document<'_>,
) -> (BTreeMap<String, Service>, BTreeMap<String, ExternalService>) {
    let (mut services, mut external) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in table.entries() {
        if let Some(wrong) = wrong_name(&name) {
            doc.report_at(&name, wrong);
        } else if RESERVED.contains(&name.as_str()) {
            let message = format!("a service cannot be named {}: Wharf itself uses that name", quoted(&name));
            doc.report_at(&name, message);
        }
        match value.table() {
            Some(table) if external::is_external(&table) => {
                external.insert(name.value.clone(), ExternalService::read(name, table));
            }
            Some(table) => {
                services.insert(name.value.clone(), Service::read(name, table, app, doc));
            }
            None => {}
        }
    }
    (services, external)
}

// === impl Service ===

impl Service {
    fn read(name: Placed<String>, mut table: Table<'_>, app: &App, doc: &Document<'_>) -> Self {
        external::refuse_in_component(&mut table);
        let mut service = Self {
            component: Component::read(&mut table),
            signed_by: signed_by::read(&mut table),
            database: table.or("database", None, ServiceDatabase::read),
            buckets: table.or("buckets", Vec::new(), |v| v.strings("bucket")),
            publishes: table.or("publishes", Vec::new(), |v| v.strings("topic")),
            subscribes: table.or("subscribes", Vec::new(), Subscription::read_all),
            awaits: table.or("awaits", Vec::new(), |v| v.strings("topic")),
            sagas: Sagas::read(table.table("sagas")),
            calls: table.or("calls", Vec::new(), |v| v.strings("service name")),
            outbound: table.or("outbound", Vec::new(), Origin::read_all),
            mail: table.optional("mail", mail::read_sender),
            config: read_settings(table.table("config"), doc, |value| value.string()),
            secrets: Secrets::read(table.value("secrets"), doc),
            instances: Instances::read(table.table("instances")),
            limits: Limits::read(table.table("limits")),
            rollout: rollout::read(table.table("rollout"), &RolloutPolicy::default()),
            name,
        };
        if service.signed_by.is_empty() {
            service.signed_by.clone_from(&app.signed_by);
        }
        for (key, secret) in &service.secrets.named {
            if service.config.contains_key(key) {
                doc.report_at(
                    secret,
                    format!("{} is in config too; the service can see only one of them", quoted(key)),
                );
            }
        }
        for bucket in &service.buckets {
            if !is_plain_name(bucket, BUCKET_LENGTH) {
                let rule = format!(
                    "expected a bucket's name: 1 to {BUCKET_LENGTH} letters, digits, dots, hyphens and underscores"
                );
                doc.report_at(bucket, format!("{rule}, found {}", quoted(bucket)));
            }
        }
        for subscription in service.subscribes.iter().filter(|it| it.policy.deduplicate && service.database.is_none()) {
            let message =
                "`deduplicate` keeps what took effect in the service's own database: set `database = true` in";
            doc.report_at(&subscription.topic, format!("{message} [services.{}]", service.name.value));
        }
        if service.database.is_none() {
            let of = "the host keeps the sagas of a service in its own database: set `database = true` in";
            for key in ["awaits", "sagas"] {
                if table.has(key) {
                    table.report_field(key, format!("{of} [services.{}]", service.name.value));
                }
            }
        }
        table.finish();
        service
    }
}

/// What is wrong with the key of a setting, if anything.
pub(super) fn wrong_key(key: &str) -> Option<String> {
    let good = (1..=CONFIG_KEY_LENGTH).contains(&key.len()) && !key.contains(char::is_control);
    (!good).then(|| format!("expected a name of 1 to {CONFIG_KEY_LENGTH} bytes without control characters"))
}

pub(super) fn read_settings<T>(
    table: Table<'_>,
    doc: &Document<'_>,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let mut settings = BTreeMap::new();
    for (name, value) in table.entries() {
        if let Some(wrong) = wrong_key(&name) {
            doc.report_at(&name, wrong);
        }
        if let Some(setting) = read(&value) {
            settings.insert(name.value, setting);
        }
    }
    settings
}

// === impl Component ===

impl Component {
    fn read(table: &mut Table<'_>) -> Self {
        // Read through `value`, so that one which is there but wrong is not called missing as well.
        let (source, file) = (table.value("source"), table.value("component"));
        let build = table.optional("build", |v| {
            let command = v.string()?;
            let blank = command.trim().is_empty();
            if blank { v.expected("a shell command") } else { Some(v.placed(command)) }
        });
        // From the source's folder, as the command that makes it.
        let artifact = table.optional("artifact", |v| v.string().map(|path| v.placed(PathBuf::from(path))));
        let expected = "expected either `source` (a folder to build) or `component` (a ready .wasm file)";
        match (source, file) {
            (Some(_), Some(file)) => {
                file.report::<()>(format!("{expected}, found both"));
            }
            (None, None) => table.report(format!("{EITHER}, found neither")),
            (Some(folder), None) => {
                if let Some(folder) = folder.path() {
                    return Self::Source(Source { folder, build, artifact });
                }
            }
            (None, Some(file)) => {
                let given = [("build", build.is_some()), ("artifact", artifact.is_some())];
                for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                    file.report::<()>(format!("`{key}` goes with `source`; a ready component is not built"));
                }
                if let Some(component) = Self::ready(&file) {
                    return component;
                }
            }
        }
        Self::File(table.placed(PathBuf::new()))
    }

    /// Reads what `component` says.
    fn ready(value: &Value<'_>) -> Option<Self> {
        match value.as_str() {
            Some(text) if Reference::is_meant(text) => match text.parse() {
                Ok(reference) => Some(Self::Registry(value.placed(reference))),
                Err(error) => value.report(format!("{error}, found {}", quoted(text))),
            },
            // Whoever writes a URL does not mean a file.
            Some(text) if text.contains("://") => value
                .expected("a path to a .wasm file, or a component in a registry such as \"oci://registry/name:tag\""),
            _ => value.path().map(Self::File),
        }
    }

    /// What says where it comes from: the place of the `source` or the `component` key.
    pub fn place(&self) -> Placed<()> {
        match self {
            Self::Source(source) => source.folder.with(()),
            Self::File(file) => file.with(()),
            Self::Registry(reference) => reference.with(()),
        }
    }

    /// The file or the folder, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Source(source) => Some(&source.folder.value),
            Self::File(file) => Some(&file.value),
            Self::Registry(_) => None,
        }
    }
}

// === impl Instances ===

impl Instances {
    fn read(mut table: Table<'_>) -> Self {
        let instances = Self {
            max: table.or("max", 16, |v| v.integer(1..=4096)),
            concurrency: table.or("concurrency", 16, |v| v.integer(1..=10_000)),
            reuse: table.or("reuse", 100_000, |v| v.integer(1..=1_000_000_000)),
            queue: table.or("queue", 1024, |v| v.integer(0..=1_000_000)),
        };
        table.finish();
        instances
    }
}

// === impl Limits ===

impl Limits {
    fn read(mut table: Table<'_>) -> Self {
        let limits = Self {
            memory: table.or("memory", 64 << 20, |v| v.size(64 << 10..=4 << 30)),
            tables: table.or("tables", 20_000, |v| v.integer(1..=10_000_000)),
            cpu: table.or("cpu", Duration::from_millis(500), |v| v.duration(SHORTEST..=LONGEST_CPU)),
        };
        table.finish();
        limits
    }
}
