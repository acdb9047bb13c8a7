//! How sagas under way stand, in a word each, and how many there are of each.

use super::Status;
use serde::{Deserialize, Serialize};

/// How a saga under way stands by itself. Whether the revision that serves can go on with it is another matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// A step is called, or will be without anybody's doing.
    #[default]
    Running,
    /// All that it is at waits for an event or a time.
    Waiting,
    /// It is taken back.
    Compensating,
    /// It is taken back, and a compensation keeps failing.
    Stuck,
}

/// How many of a service's sagas are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Those that go on by themselves.
    pub running: usize,
    /// Those that wait for an event or a time.
    pub waiting: usize,
    /// Those that are taken back.
    pub compensating: usize,
    /// Those of which a compensation keeps failing.
    pub stuck: usize,
    /// Those that need a step which the revision that serves lacks.
    pub halted: usize,
}

// === impl Standing ===

impl Standing {
    /// All of them, each at the place of its number.
    pub const ALL: [Self; 4] = [Self::Running, Self::Waiting, Self::Compensating, Self::Stuck];

    /// The word for it, which is also written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Compensating => "compensating",
            Self::Stuck => "stuck",
        }
    }

    /// The one that was written so. Earlier versions wrote `running` also of what waits, and `compensating` of what is stuck:
    /// so it is counted until it is written again.
    pub fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|standing| standing.as_str() == name).unwrap_or_default()
    }

    /// Those that one who asks for this status means.
    pub const fn of(status: Status) -> &'static [Self] {
        match status {
            Status::Running => &[Self::Running, Self::Waiting],
            Status::Compensating => &[Self::Compensating, Self::Stuck],
            Status::Completed | Status::Compensated => &[],
        }
    }
}

// === impl Counts ===

impl Counts {
    /// How many there are.
    pub fn under_way(&self) -> usize {
        self.named().into_iter().map(|(_, count)| count).sum()
    }

    /// How many of each, with the word for it.
    pub const fn named(&self) -> [(&'static str, usize); 5] {
        let Self { running, waiting, compensating, stuck, halted } = *self;
        [
            ("running", running),
            ("waiting", waiting),
            ("compensating", compensating),
            ("stuck", stuck),
            ("halted", halted),
        ]
    }

    /// So many more stand so.
    pub(super) fn add(&mut self, standing: Standing, count: usize) {
        let of = match standing {
            Standing::Running => &mut self.running,
            Standing::Waiting => &mut self.waiting,
            Standing::Compensating => &mut self.compensating,
            Standing::Stuck => &mut self.stuck,
        };
        *of += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_counted() {
        for (number, standing) in Standing::ALL.into_iter().enumerate() {
            assert_eq!((Standing::parse(standing.as_str()), standing as usize), (standing, number));
            let status = Status::ALL.into_iter().filter(|status| Standing::of(*status).contains(&standing));
            assert_eq!(status.count(), 1);
            let mut counts = Counts { halted: 1, ..Counts::default() };
            counts.add(standing, 2);
            assert!(counts.under_way() == 3 && counts.named().contains(&(standing.as_str(), 2)), "{counts:?}");
        }
    }
}
