//! The steps of a deploy that guests take part in.

use super::{DeployError, HistoryError, Loaded, Member, Newer, Serving, error::named};
use crate::{
    saga,
    service::{Revision, RevisionError},
    store::{MigrateError, Migration},
};
use std::time::Duration;
use tokio::time::timeout;

/// A first instance that takes longer than this to come up is given up.
const WARM_LIMIT: Duration = Duration::from_secs(10);

/// What a guest does before it gets calls has a limit of its own: there is no caller with a deadline.
pub(super) async fn in_time<T>(step: impl Future<Output = Result<T, RevisionError>>) -> Result<T, RevisionError> {
    timeout(WARM_LIMIT, step).await.unwrap_or(Err(RevisionError::Late(WARM_LIMIT)))
}

pub(super) fn wrong(member: &Member, source: RevisionError) -> DeployError {
    DeployError::Revision { service: member.service.name().to_string(), source }
}

pub(super) fn unrecorded(member: &Member, source: HistoryError) -> DeployError {
    DeployError::History { service: member.service.name().to_string(), source }
}

/// The schema that a revision declares; none where it has no database.
pub(super) async fn migrations_of(member: &Member, revision: &Revision) -> Result<Vec<Migration>, DeployError> {
    match &member.terms.scope.database {
        Some(_) => in_time(revision.migrations()).await.map_err(|source| wrong(member, source)),
        None => Ok(Vec::new()),
    }
}

/// Asks a revision which sagas it has, and makes ready for them.
pub(super) async fn read_sagas(member: &Member, revision: &Revision) -> Result<(), DeployError> {
    let Some(register) = &member.terms.sagas else { return Ok(()) };
    let read = async {
        let definitions = revision.read_sagas().await?;
        saga::check(member.service.name(), definitions, &member.terms.grants.awaits).map_err(RevisionError::Sagas)?;
        let opened = if revision.has_sagas() { register.open().await } else { register.open_kept().await };
        opened.map_err(|error| RevisionError::Sagas(error.to_string()))
    };
    in_time(read).await.map_err(|source| wrong(member, source))
}

/// Whether the sagas that are under way can go on with a revision that was asked for its own.
pub(super) async fn sagas_go_on(member: &Member, revision: &Revision) -> Result<(), DeployError> {
    let Some(register) = &member.terms.sagas else { return Ok(()) };
    let service = || member.service.name().to_string();
    match register.unmet(revision.sagas()).await {
        Ok(unmet) if unmet.is_empty() => Ok(()),
        Ok(unmet) => Err(DeployError::Sagas { service: service(), unmet }),
        Err(source) => Err(DeployError::UnreadSagas { service: service(), source }),
    }
}

/// The sagas of a service are those of the revision that serves now.
pub(super) async fn serve_sagas(member: &Member, revision: &Revision) {
    if let Some(register) = &member.terms.sagas {
        register.serve(revision.sagas().to_vec()).await;
    }
}

/// Brings the schema up to date, and says how the revision is to be recorded.
pub(super) async fn migrate(
    member: &Member,
    loaded: &Loaded,
    revision: &Revision,
    migrations: &[Migration],
    newer: Newer,
) -> Result<Serving, DeployError> {
    let (service, number) = (member.service.name().to_string(), revision.info().number);
    let mut serving = Serving { manifest: loaded.manifest.clone(), ..Serving::default() };
    let Some(database) = &member.terms.scope.database else { return Ok(serving) };
    serving.schema = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    match database.migrate(migrations).await {
        Ok(_) => {}
        Err(MigrateError::Newer { component: known, unknown, .. }) if newer == Newer::Allowed => {
            let unknown = named(known, &unknown);
            tracing::warn!(service, revision = number, unknown, "runs on a newer schema than it knows");
            serving.lags = true;
        }
        Err(MigrateError::Newer { component: known, unknown, .. }) if newer == Newer::Unforced => {
            return Err(DeployError::PastMigrations { service, number, known, unknown });
        }
        Err(source) => return Err(DeployError::Migrate { service, source }),
    }
    Ok(serving)
}

/// Makes the first instance, and asks whether it is ready.
pub(super) async fn warm(member: &Member, revision: &Revision) -> Result<(), DeployError> {
    let warmed = in_time(async {
        revision.warm().await?;
        revision.ready().await
    });
    warmed.await.map_err(|source| wrong(member, source))
}
