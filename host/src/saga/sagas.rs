//! The sagas of one service. A stand-in for what runs them, until that is merged: it knows none.

use super::{Definition, Error, Filter, OpenError, Page, Settings, Snapshot, Steps, Unmet, View};
use crate::{
    events::Event,
    policy::{Fault, FaultKind},
    store::Database,
};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

#[derive(Clone)]
pub struct Sagas(());

fn none<T>() -> Result<T, Error> {
    Err(Error::Fault(Fault::new(FaultKind::Unreachable, "nothing runs sagas yet")))
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async)]
impl Sagas {
    pub async fn open(
        _: impl Into<Arc<str>>,
        _: Database,
        _: Vec<Definition>,
        _: Arc<dyn Steps>,
        _: Settings,
    ) -> Result<Self, OpenError> {
        Ok(Self(()))
    }
    pub async fn start(&self, _: &str, _: &str, _: &[u8]) -> Result<Snapshot, Error> {
        none()
    }
    pub async fn get(&self, _: &str, _: &str) -> Result<Snapshot, Error> {
        none()
    }
    pub async fn wait(&self, _: &str, _: &str, _: Duration) -> Result<Snapshot, Error> {
        none()
    }
    pub async fn deliver(&self, _: Arc<Event>) -> Result<(), Fault> {
        Ok(())
    }
    pub async fn list(&self, _: &Filter) -> Result<Page, Error> {
        none()
    }
    pub async fn show(&self, _: Option<&str>, _: &str) -> Result<View, Error> {
        none()
    }
    pub async fn retry(&self, _: Option<&str>, _: &str) -> Result<(), Error> {
        none()
    }
    pub async fn compensate(&self, _: Option<&str>, _: &str, _: Option<&str>) -> Result<(), Error> {
        none()
    }
    pub async fn unmet(&self, _: &[Definition]) -> Result<Vec<Unmet>, Error> {
        Ok(Vec::new())
    }
    pub async fn set_definitions(&self, _: Vec<Definition>) -> Result<(), OpenError> {
        Ok(())
    }
    pub fn under_way(&self) -> usize {
        0
    }
    pub async fn close(&self, _: Instant) {}
}
