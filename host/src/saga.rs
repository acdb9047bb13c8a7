//! Sagas: work over several services that is done completely, or undone, by `wharf:saga`.
//!
//! A saga is a list of steps, each of which has an action and may have a compensation. The host goes from step to step, and
//! writes into the service's own database how far it has come before and after each. When a step fails for good, the steps
//! that were begun are compensated, the last one first.
//!
//! ```text
//! start ──write──► act 1 ──write──► act 2 ──write──► … ──write──► completed
//!                                     └─ failed ──write──► compensate 1 ──write──► compensated
//! ```
//!
//! - **What was started ends**, completed or compensated, also when the host dies at any moment in between.
//! - **A step and what comes after it are one write**: "this is done, that is begun". So a saga of five steps is six writes,
//!   which share the commits of the service's other writers.
//! - **What waits costs nothing**: a saga that waits for an event or a time is a row, and a number in memory.
//! - **One at a time**: a saga is moved on by one task of one host. Where several hosts have the same database, it is that of
//!   the holder of a lease, and a write that comes from another is not taken.
//!
//! What a saga does next is decided by a state machine that knows neither clock nor database (`machine`).

pub mod binding;

mod access;
mod call;
mod definition;
mod error;
mod known;
mod lacking;
mod machine;
mod merge;
mod register;
mod rows;
mod runner;
mod sagas;
mod settings;
mod standing;
mod view;

pub use access::Access;
pub use call::{Again, Outcome, StepCall, Steps};
pub use definition::{
    Awaited, Definition, InvalidDefinition, MAX_DEFINITIONS, MAX_EVENTS, MAX_NAME, MAX_STEPS, Step, Wait,
};
pub use error::{Error, OpenError, Unmet};
pub use register::{Awaiting, Register, check};
pub use sagas::Sagas;
pub use settings::{MAX_ID, MAX_INPUT, MAX_STATE, MAX_WAIT, Settings};
pub use standing::Counts;
pub use view::{Filter, Page, Snapshot, Status, StepView, Summary, View};

#[cfg(test)]
mod tests;
