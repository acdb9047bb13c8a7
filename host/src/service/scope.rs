//! What one service is and may do: the same for all its revisions and instances.

use super::edge::Edge;
use crate::{
    engine::Limits, events::Publisher, keyvalue::Buckets, mail::Mailer, manifest::Secret, outbound::Outbound,
    outbox::Outbox, saga::Access, store::Database,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The grants of a service, from the manifest. What is not here can't be reached.
pub struct Scope {
    /// The service's name.
    pub name: Arc<str>,
    /// Whom it may call, by name.
    pub edges: HashMap<String, Arc<Edge>>,
    /// Which origins outside it may call.
    pub outbound: Outbound,
    /// What it may publish.
    pub publisher: Publisher,
    /// Its own database, where it has one.
    pub database: Option<Database>,
    /// Its own buckets, where it has any.
    pub buckets: Option<Buckets>,
    /// What leaves together with what it writes, where it has a database and may publish.
    pub outbox: Option<Outbox>,
    /// Its right to send mail, where it has it.
    pub mailer: Option<Mailer>,
    /// Which sagas it may start.
    pub sagas: Access,
    /// Configuration and secrets, by key.
    pub config: BTreeMap<String, Secret>,
    /// What each instance may use.
    pub limits: Limits,
}

// === impl Scope ===

impl Scope {
    /// The same with what changes nothing: it publishes nothing and sends no mail, and its statements and its buckets only read. What is outside
    /// is closed to it: nobody knows what a request does there.
    pub fn without_effects(&self) -> Self {
        Self {
            name: self.name.clone(),
            edges: self.edges.clone(),
            outbound: Outbound::default(),
            publisher: self.publisher.muted(),
            database: self.database.as_ref().map(Database::read_only),
            buckets: self.buckets.as_ref().map(Buckets::read_only),
            outbox: None,
            mailer: None,
            sagas: Access::default(),
            config: self.config.clone(),
            limits: self.limits,
        }
    }
}
