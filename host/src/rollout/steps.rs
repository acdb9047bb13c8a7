//! The steps of a deploy that guests take part in.

use super::{DeployError, HistoryError, Loaded, Member, Newer, Serving, error::named};
use crate::{
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
