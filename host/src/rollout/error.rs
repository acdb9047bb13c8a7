//! Why a component did not become a revision.

use super::HistoryError;
use crate::{
    engine::CacheError,
    saga::{self, Unmet},
    service::{Misfit, RevisionError},
    store::MigrateError,
    trust::Distrust,
};

/// Why a component did not become a revision.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The manifest has no such service.
    #[error("there is no service `{service}`{meant}")]
    UnknownService {
        /// The name that was given.
        service: String,
        /// The name that was meant, in words; empty where none is near.
        meant: String,
    },
    /// Nobody has signed it who would have to.
    #[error(transparent)]
    Untrusted(#[from] Distrust),
    /// It is no component, or can't be compiled.
    #[error("{origin} can't be loaded: {source}")]
    Load {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        source: CacheError,
    },
    /// It does not fit the manifest or its neighbours.
    #[error("{}", listed(.0))]
    Misfit(Vec<Misfit>),
    /// It can't be linked or instantiated.
    #[error("service `{service}`: {source}")]
    Revision {
        /// The service.
        service: String,
        /// What is wrong.
        source: RevisionError,
    },
    /// Sagas under way could not go on with it.
    #[error("service `{service}`: {}", told(service, unmet))]
    Sagas {
        /// The service.
        service: String,
        /// What they need.
        unmet: Vec<Unmet>,
    },
    /// Nobody knows whether sagas under way could go on with it.
    #[error("service `{service}`: its sagas can't be read: {source}")]
    UnreadSagas {
        /// The service.
        service: String,
        /// What is wrong.
        source: saga::Error,
    },
    /// Its schema can't be brought up to date.
    #[error("service `{service}`: {source}")]
    Migrate {
        /// The service.
        service: String,
        /// What is wrong.
        source: MigrateError,
    },
    /// It can't be recorded, or what is recorded can't be had.
    #[error("service `{service}`: {source}")]
    History {
        /// The service.
        service: String,
        /// What is wrong.
        source: HistoryError,
    },
    /// It is older than the schema.
    #[error(
        "service `{service}`: revision {number} does not know {}, which the database has and which it would not undo; if \
         it can live with the newer schema, `--force` starts it all the same", named(*known, unknown)
    )]
    PastMigrations {
        /// The service.
        service: String,
        /// The revision.
        number: u64,
        /// How many migrations it knows.
        known: u32,
        /// The names of those that come after them.
        unknown: Vec<String>,
    },
    /// It failed after it had migrated.
    #[error(
        "{source}\nIt had applied {} before, which is not undone: revision {number}, which goes on, runs on a newer schema \
         than it knows", named(*known, applied)
    )]
    AfterMigrating {
        /// Why it failed.
        source: Box<DeployError>,
        /// The revision that goes on.
        number: u64,
        /// How many migrations there were before.
        known: u32,
        /// The names of those that it applied.
        applied: Vec<String>,
    },
    /// It belongs to another service.
    #[error("service `{service}`: this is the component of service `{owner}`: its {source}")]
    Swapped {
        /// The service that it was meant for.
        service: String,
        /// The one that runs it.
        owner: String,
        /// How it shows.
        source: Box<MigrateError>,
    },
    /// Another one is on its way.
    #[error(
        "the rollout of revision {revision} of service `{service}` is under way: wait for its end, or bring it about with \
         `wharf rollout {service} promote` or `wharf rollout {service} undo`"
    )]
    UnderWay {
        /// The service.
        service: String,
        /// The revision that is on its way.
        revision: u64,
    },
    /// There is nothing to promote or to undo.
    #[error("no rollout of service `{0}` is under way")]
    NoRollout(String),
}

fn told(service: &str, unmet: &[Unmet]) -> String {
    let each: Vec<_> = unmet.iter().map(|it| format!("{it}")).collect();
    format!(
        "{}; keep what they need until they have ended, which `wharf saga list --service {service}` shows, or let \
         `wharf saga compensate` take them back",
        each.join("; ")
    )
}

fn listed(misfits: &[Misfit]) -> String {
    misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Migrations by number and name, those after the first `known`.
pub(super) fn named(known: u32, names: &[String]) -> String {
    let each: Vec<_> = (known + 1..).zip(names).map(|(version, name)| format!("{version} (`{name}`)")).collect();
    match each.as_slice() {
        [one] => format!("migration {one}"),
        [others @ .., last] => format!("migrations {} and {last}", others.join(", ")),
        [] => "no migration".to_owned(),
    }
}
