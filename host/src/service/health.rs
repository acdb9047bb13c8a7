//! `wharf:platform/health`: a revision says itself whether it is ready.

use super::state::State;
use wasmtime::{Store, component::Instance};

/// The interface that a component exports which wants to be asked.
pub const HEALTH: &str = "wharf:platform/health@0.1.0";

/// The longest reason that is passed on, in characters.
const MAX_REASON: usize = 1024;

/// Asks an instance whether it is ready, or why it is not. One that does not export [`HEALTH`] is.
///
/// # Errors
///
/// When the export has another type, or the guest traps.
pub(super) async fn ask(store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<(), String>> {
    let Some(interface) = instance.get_export_index(&mut *store, None, HEALTH) else { return Ok(Ok(())) };
    let Some(function) = instance.get_export_index(&mut *store, Some(&interface), "ready") else { return Ok(Ok(())) };
    let ready = instance.get_typed_func::<(), (Result<(), String>,)>(&mut *store, &function)?;
    let (answer,) = store.run_concurrent(async |accessor| ready.call_concurrent(accessor, ()).await).await??;
    Ok(answer.map_err(|reason| reason.chars().take(MAX_REASON).collect()))
}
