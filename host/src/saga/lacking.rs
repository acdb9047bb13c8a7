//! Sagas under way that need what definitions lack: those that a revision would have halted.

use super::{Definition, machine::Machine, rows, runner::Shared};
use crate::store;
use std::sync::Arc;

/// A saga under way, and what it needs.
pub(super) struct Lacking {
    pub number: i64,
    pub id: String,
    /// What it began with.
    pub definition: Arc<Definition>,
    /// The number of the step that it may need.
    pub step: usize,
    /// Whether it is the step's compensation that is lacking, not the step.
    pub compensation: bool,
}

/// Tells of each saga under way that may need what the definitions lack which `found` knows by their names.
pub(super) async fn lacking<'d>(
    shared: &Shared,
    found: impl Fn(&str) -> Option<&'d Definition>,
    mut each: impl FnMut(Lacking),
) -> Result<(), store::Error> {
    for digest in rows::under_way(&shared.database).await? {
        let definition = shared.known.get(&shared.database, &digest).await?;
        let found = found(&definition.name);
        // Most revisions know all steps: then no saga needs to be looked at.
        let knows = |step: &super::Step| {
            let found = found.and_then(|found| found.step(&step.name));
            found.is_some_and(|found| found.compensates || !step.compensates)
        };
        if definition.steps.iter().all(knows) {
            continue;
        }
        let mut after = i64::MIN;
        loop {
            let page = rows::progress(&shared.database, &digest, after).await?;
            let Some((last, ..)) = page.last() else { break };
            after = *last;
            for (number, id, progress) in page {
                let machine = Machine::restore(definition.clone(), shared.tries(), progress, Default::default());
                if let Some((step, compensation)) = machine.and_then(|machine| machine.lacks(found)) {
                    each(Lacking { number, id, definition: definition.clone(), step, compensation });
                }
            }
        }
    }
    Ok(())
}
