//! `wharf.toml` to validated values, and nothing else.
//!
//! The manifest says everything that an operator decides. It is read and checked as a whole before anything starts, and
//! everything wrong with it is reported at once: whoever mends a manifest wants to know all of it, and a host that
//! starts on half of one would be worse than none. What is handed out needs no further checking: defaults are filled
//! in, names lead somewhere, numbers are within bounds, paths start at the manifest's folder.
//!
//! Nothing in here touches what the manifest speaks of. Whether a file exists or a port is free is found out by those
//! who use them; they report it at the manifest's line by [`Manifest::error_at`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{events::Retention, policy::Policy, trust::PublicKey};
use toml::de::DeTable;

mod error;
mod events;
mod external;
mod gateway;
mod mail;
mod origin;
mod path;
mod policy;
mod reader;
mod rollout;
mod sagas;
mod secret;
mod secret_folder;
mod secrets;
mod server_url;
mod services;
mod signed_by;
mod store;
mod subscription;
#[cfg(test)]
mod tests;
mod validate;
mod values;

pub(crate) use reader::did_you_mean;
pub use values::parse_duration;

pub use error::{ManifestError, ManifestErrors, Place, Placed};
pub use events::{Bus, Sharing, Topic};
pub use external::{Addresses, ExternalService};
pub use gateway::{Admin, Aggregate, ApiDocument, Gateway, Methods, Part, Route};
pub use mail::{Mail, MailAddress, MailServer};
pub use origin::{Origin, Scheme};
pub use path::{InvalidPath, PathPattern, PathTemplate};
pub use policy::{EVENTS, Edge, GATEWAY, MAIL, Policies, SAGAS};
pub use sagas::Sagas;
pub use secret::{Secret, SecretError, SecretRef};
pub use secret_folder::SecretFolder;
pub use secrets::Secrets;
pub use server_url::ServerUrl;
pub use services::{Component, Instances, Limits, Service, Source};
pub use store::{ServiceDatabase, Store, StoreServer};
pub use subscription::Subscription;

use reader::{Document, Table, Value};

/// A whole, valid manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file, as it was named to [`load`](Self::load).
    pub path: PathBuf,
    /// The application.
    pub app: App,
    /// The HTTP entrance.
    pub gateway: Gateway,
    /// Where the running host is asked and told.
    pub admin: Admin,
    /// The services that run here, by name.
    pub services: BTreeMap<String, Service>,
    /// The services outside, by name; none is in `services` too. Of both together there is at least one.
    pub external: BTreeMap<String, ExternalService>,
    /// The topics by name.
    pub topics: BTreeMap<String, Topic>,
    /// What carries events.
    pub bus: Bus,
    /// How long it keeps those of the past.
    pub retention: Retention,
    /// Where the databases are.
    pub store: Store,
    /// The Redis that keeps buckets; `None`: a file for each service does.
    pub key_value: Option<Placed<ServerUrl>>,
    /// Where mail goes.
    pub mail: Mail,
    /// What guards the calls.
    pub policies: Policies,
}

/// The application as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its name; the same rule as for services.
    pub name: String,
    /// The folder for databases, compiled code and the admin socket.
    pub data: Placed<PathBuf>,
    /// How many revisions of each service are kept.
    pub revisions: usize,
    /// Of these keys one must have signed the component of each service that does not name keys of its own; none: nobody has
    /// to.
    pub signed_by: Vec<Placed<PublicKey>>,
}

/// The longest manifest, in bytes.
const MAX_LENGTH: usize = 1 << 20;

// === impl Manifest ===

impl Manifest {
    /// Reads and validates the manifest in a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, or why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ManifestErrors> {
        let unreadable = |error| ManifestErrors::whole(path, format!("the manifest cannot be read: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() > MAX_LENGTH {
            return Err(too_long(path));
        }
        match str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
                Err(ManifestErrors::whole(path, format!("the manifest is not UTF-8 text: see line {line}")))
            }
        }
    }

    /// Validates the text of a manifest. `path` is what errors name, and its folder is where relative paths start.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestErrors> {
        if text.len() > MAX_LENGTH {
            return Err(too_long(path));
        }
        let doc = Document::new(text, path.parent().unwrap_or(Path::new("")));
        let (tree, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            let mut errors = syntax_errors(&doc, &syntax);
            // What follows from the first mistake on a line says nothing new.
            errors.sort();
            errors.dedup_by_key(|error| error.place.map(|place| place.line));
            return Err(ManifestErrors::new(path, errors));
        }
        let manifest = Self::read(doc.root(tree.get_ref()), &doc, path);
        let errors = doc.into_errors();
        if errors.is_empty() { Ok(manifest) } else { Err(ManifestErrors::new(path, errors)) }
    }

    fn read(mut root: Table<'_>, doc: &Document<'_>, path: &Path) -> Self {
        let app = App::read(root.table("app"), doc);
        let gateway = Gateway::read(root.table("gateway"), doc);
        let admin = Admin::read(root.table("admin"), &app.data);
        let services_table = root.table("services");
        if services_table.is_empty() {
            services_table.report("expected at least one service, as in [services.user]");
        }
        let (services, external) = services::read(services_table, &app, doc);
        let topics = events::read_topics(root.table("topics"), doc);
        let (bus, retention) = events::read(root.table("events"));
        let key_value = events::read_redis(root.table("key-value"));
        let store = Store::read(root.table("store"));
        let mail = Mail::read(root.table("mail"), &app);
        let (policies, edges) = Policies::read(root.table("policy"), doc);
        root.finish();
        let path = path.to_owned();
        let manifest = Self {
            path,
            app,
            gateway,
            admin,
            services,
            external,
            topics,
            bus,
            retention,
            store,
            key_value,
            mail,
            policies,
        };
        validate::validate(&manifest, &edges, doc);
        manifest
    }

    /// Where what is pulled from registries is kept.
    pub fn pulled(&self) -> PathBuf {
        self.app.data.value.join("oci")
    }

    /// Whether there is a service of this name, here or outside.
    pub fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name) || self.external.contains_key(name)
    }

    /// The policy of the calls from `caller` (a service, [`GATEWAY`], [`EVENTS`] or [`SAGAS`]) to `callee` (a service,
    /// [`MAIL`], or an [`Origin`] as it displays itself).
    pub fn edge_policy(&self, caller: &str, callee: &str) -> &Policy {
        self.policies.edges.get(&Edge::new(caller, callee)).unwrap_or(&self.policies.defaults)
    }

    /// Every way that calls may take, to services, to origins outside and to the mail.
    pub fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (name, service) in &self.services {
            edges.extend(service.calls.iter().map(|callee| Edge::new(name, &callee.value)));
            edges.extend(service.outbound.iter().map(|origin| Edge::new(name, origin.to_string())));
            if !service.subscribes.is_empty() {
                edges.insert(Edge::new(EVENTS, name));
            }
            if service.mail.is_some() {
                edges.insert(Edge::new(name, MAIL));
            }
            // Only the component says whether it has sagas; without a database it can't.
            if service.database.is_some() {
                edges.insert(Edge::new(SAGAS, name));
            }
        }
        let parts = self.gateway.aggregates.iter().flat_map(|aggregate| aggregate.parts.values());
        let routed = self.gateway.routes.iter().map(|route| &route.service).chain(parts.map(|part| &part.service));
        edges.extend(routed.map(|service| Edge::new(GATEWAY, &service.value)));
        edges
    }

    /// An error that turned up later with something written in the manifest, in the form of those found by
    /// [`load`](Self::load): a missing file, a port in use.
    pub fn error_at<T>(&self, at: &Placed<T>, message: impl Display) -> ManifestErrors {
        self.errors_at([at.with(message.to_string())])
    }

    /// Several of them: messages, each with its place. There must be at least one.
    pub fn errors_at(&self, messages: impl IntoIterator<Item = Placed<String>>) -> ManifestErrors {
        let error = |it: Placed<String>| ManifestError { place: it.place, key: it.key, message: it.value };
        ManifestErrors::new(&self.path, messages.into_iter().map(error).collect())
    }
}

// === impl App ===

impl App {
    fn read(mut table: Table<'_>, doc: &Document<'_>) -> Self {
        let name = table.required("name", "the application's name", |value| {
            let name = value.string()?;
            services::wrong_name(&name).map_or(Some(name), |wrong| value.report(wrong))
        });
        let data = table.optional("data", Value::path);
        let data = data.unwrap_or_else(|| table.default("data", doc.resolve(".wharf")));
        let revisions = table.or("revisions", 5, |value| value.integer(1..=100));
        let signed_by = signed_by::read(&mut table);
        table.finish();
        Self { name: name.unwrap_or_default(), data, revisions, signed_by }
    }
}

fn too_long(path: &Path) -> ManifestErrors {
    ManifestErrors::whole(path, format!("the manifest is longer than {} KiB", MAX_LENGTH >> 10))
}

fn syntax_errors(doc: &Document<'_>, errors: &[toml::de::Error]) -> Vec<ManifestError> {
    let error = |error: &toml::de::Error| ManifestError {
        place: error.span().map(|span| doc.place(span.start)),
        key: String::new(),
        message: match error.message().trim_end() {
            "duplicate key" => "not valid TOML: this key or table is there already".into(),
            message => format!("not valid TOML: {message}"),
        },
    };
    errors.iter().map(error).collect()
}
