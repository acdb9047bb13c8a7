//! Sagas: work over several services that is done completely, or undone.

pub mod binding;
mod check;

pub use check::{InvalidSagas, check};
