//! The OpenAPI document of the gateway, and whether it tells of what there is.

use super::{StartError, routes_to};
use crate::{
    gateway::{ApiDocument, Routes, Upstream},
    manifest::{Manifest, ManifestErrors},
    policy::{Fault, FaultKind},
    service::{Body, CallContext},
};
use futures::future::BoxFuture;
use hyper::{Request, Response};
use std::sync::Arc;

/// The document that the manifest names, read.
pub(super) fn document(manifest: &Manifest) -> Result<Option<Arc<ApiDocument>>, ManifestErrors> {
    let Some(document) = &manifest.gateway.document else { return Ok(None) };
    let read = ApiDocument::read(&document.file);
    let wrong = |error| manifest.error_at(&document.file, format!("{}: {error}", document.file.display()));
    read.map(|document| Some(Arc::new(document))).map_err(wrong)
}

/// Whether each operation of the document is routed.
pub(super) fn check_document(
    manifest: &Manifest,
    document: Option<&ApiDocument>,
    routes: &Routes,
) -> Result<(), ManifestErrors> {
    let (Some(named), Some(document)) = (&manifest.gateway.document, document) else { return Ok(()) };
    let wrong = document.operations().iter().filter_map(|operation| routes.not_routed(operation));
    let wrong: Vec<_> = wrong.map(|wrong| named.file.with(wrong)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(manifest.errors_at(wrong)) }
}

/// The document that the manifest names, read and checked against the manifest's routes; nothing of these need run.
pub(in crate::app) fn checked_document(manifest: &Manifest) -> Result<Option<Arc<ApiDocument>>, StartError> {
    let document = document(manifest)?;
    let nowhere: Arc<dyn Upstream> = Arc::new(Nowhere);
    routes_to(manifest, document.clone(), |_| nowhere.clone())?;
    Ok(document)
}

/// Stands for services that do not run.
struct Nowhere;

impl Upstream for Nowhere {
    fn call(&self, _: CallContext, _: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin(async { Err(Fault::new(FaultKind::Unreachable, "nothing runs")) })
    }
}
