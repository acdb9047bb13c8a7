//! `wharf:saga` for components: the export with the steps, and the import that starts sagas.

use wasmtime::{AsContextMut, component::Instance};

#[allow(missing_docs, reason = "made from the WIT package, which is documented")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package wharf:saga-host;
            world saga {
                import wharf:saga/sagas@0.1.0;
                export wharf:saga/steps@0.1.0;
            }
        ",
        path: ["../wit/wharf/platform", "../wit/wharf/messaging", "../wit/wharf/saga"],
        world: "wharf:saga-host/saga",
        with: {
            "wharf:platform/faults@0.1.0": crate::events::binding::bindings::wharf::platform::faults,
            "wharf:messaging/types@0.1.0": crate::events::binding::bindings::wharf::messaging::types,
        },
        imports: { default: async | store },
        exports: { default: async | store },
    });
}

pub use bindings::wharf::saga::types::{
    Awaited as WitAwaited, Call as WitCall, Definition as WitDefinition, Outcome as WitOutcome, Status as WitStatus,
    Step as WitStep, Wait as WitWait,
};
pub(crate) use bindings::wharf::saga::{sagas as wit, types::Again as WitAgain};

/// The interface that a component with sagas exports.
pub const STEPS: &str = "wharf:saga/steps@0.1.0";
/// The interface that a component imports which starts some.
pub const SAGAS: &str = "wharf:saga/sagas@0.1.0";

/// What is done of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// It is done.
    Action,
    /// It is taken back.
    Compensation,
}

/// The sagas that an instance says it has; none where it does not export [`STEPS`].
///
/// # Errors
///
/// When the export has another type, or the guest traps.
pub async fn read_definitions(
    mut store: impl AsContextMut<Data: Send>,
    instance: &Instance,
) -> wasmtime::Result<Vec<WitDefinition>> {
    let interface = instance.get_export_index(&mut store, None, STEPS);
    let Some(function) = interface.and_then(|it| instance.get_export_index(&mut store, Some(&it), "definitions"))
    else {
        return Ok(Vec::new());
    };
    let function = instance.get_typed_func::<(), (Vec<WitDefinition>,)>(&mut store, &function)?;
    let (definitions,) = function.call_async(&mut store, ()).await?;
    Ok(definitions)
}
