//! The ids of the events that were read of late.

use std::collections::{HashSet, VecDeque};

/// How many. A commit tells of its event a moment after its row can be read: no relay reads so many meanwhile.
const MOST: usize = 4_096;

#[derive(Default)]
pub(super) struct Recent {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

// === impl Recent ===

impl Recent {
    pub fn insert(&mut self, id: &str) {
        if self.ids.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}
