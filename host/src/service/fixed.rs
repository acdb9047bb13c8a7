//! Fixed results of functions: what a policy has written down, as values of the types that the functions give.
//!
//! The types are the components' own, so a policy is held against the component that it speaks of whenever either of them
//! is put in place: at the start, at a deploy, at a reload. What comes out is kept with the edge, and found there by the
//! function *and its types*: a caller of an old revision that expects others gets the fault.

use super::{
    exports::FunctionKey,
    shape::{Concern, Misfit, Shape, lacks, wit},
    tape::{Tape, written},
};
use crate::policy::{FallbackPolicy, FixedResult, FunctionList};
use std::collections::HashMap;
use wasmtime::component::types::ComponentFunc;

/// The fixed results of an edge, ready to be given.
#[derive(Debug, Default)]
pub struct FixedResults(HashMap<FunctionKey, Tape>);

// === impl FixedResults ===

impl FixedResults {
    /// Those that `policy` has for the functions that `callee`, a component of this shape, offers to `caller`.
    ///
    /// # Errors
    ///
    /// Each that is of no function, or no value of its function's type.
    pub fn new(caller: &str, callee: &str, policy: &FallbackPolicy, shape: &Shape) -> Result<Self, Vec<Misfit>> {
        let (mut results, mut found) = (HashMap::new(), Vec::new());
        let declared = &policy.params().fixed_results;
        // The last word is that of a full name.
        for result in declared.iter().filter(|it| !it.is_full()).chain(declared.iter().filter(|it| it.is_full())) {
            let mut say = |message| {
                let (list, function) = (FunctionList::FixedResults, result.function.clone());
                let concern = Concern::Function { callee: callee.into(), list, function };
                found.push(Misfit { service: caller.into(), concern, message });
            };
            if let Some(why) = lacks(&result.function, callee, shape) {
                say(format!("has a fixed result for `{}`, {why}", result.function.escape_debug()));
            }
            for (interface, name, ty) in shape.functions().filter(|(of, name, _)| result.is_of(of, name)) {
                match value(result, ty) {
                    Ok(tape) => {
                        results.insert(FunctionKey::new(interface, name, ty), tape);
                    }
                    Err(why) => say(format!("has a fixed result for `{name}` of `{interface}`, {why}")),
                }
            }
        }
        if found.is_empty() { Ok(Self(results)) } else { Err(found) }
    }

    /// That of this function.
    pub(super) fn get(&self, function: &FunctionKey) -> Option<&Tape> {
        self.0.get(function)
    }
}

fn value(result: &FixedResult, ty: &ComponentFunc) -> Result<Tape, String> {
    // A function has one result at most.
    let Some(ty) = ty.results().next() else { return Err("which gives none: leave it out".into()) };
    written(&result.value, &ty).map_err(|wrong| {
        let (ty, value) = (wit(&ty), &result.value);
        format!("which is not what the function gives: {wrong}\n  its type:   {ty}\n  the result: {value}")
    })
}
