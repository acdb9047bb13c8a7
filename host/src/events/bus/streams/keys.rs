//! Under which keys Redis holds what, and which stream an event belongs to.

use crate::events::Event;

/// The keys of one application. Names have no colon, so no two keys are the same.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

// === impl Keys ===

impl Keys {
    pub(super) fn new(app: &str) -> Self {
        Self { prefix: format!("wharf:{app}") }
    }

    /// One partition of a topic.
    pub(super) fn stream(&self, topic: &str, partition: u16) -> String {
        format!("{}:{topic}:{partition}", self.prefix)
    }

    /// What one subscription gets once more: its dead letters that were revived, and replays.
    pub(super) fn again(&self, topic: &str, service: &str, partition: u16) -> String {
        format!("{}:{topic}:again:{service}:{partition}", self.prefix)
    }

    /// Which host reads which partition of a subscription, and until when each host counts as alive.
    pub(super) fn leases(&self, topic: &str, service: &str) -> String {
        format!("{}:{topic}:leases:{service}", self.prefix)
    }

    /// How many partitions a topic has.
    pub(super) fn partitions(&self) -> String {
        format!("{}:partitions", self.prefix)
    }

    /// All topics that there have been.
    pub(super) fn topics(&self) -> String {
        format!("{}:topics", self.prefix)
    }

    /// When each subscription was seen last, by [`subscription`].
    pub(super) fn seen(&self) -> String {
        format!("{}:seen", self.prefix)
    }

    /// The dead letters of all subscriptions.
    pub(super) fn dead(&self) -> String {
        format!("{}:dead", self.prefix)
    }

    /// When the events are due that are to be delivered later.
    pub(super) fn due(&self) -> String {
        format!("{}:due", self.prefix)
    }

    /// These events themselves.
    pub(super) fn scheduled(&self) -> String {
        format!("{}:scheduled", self.prefix)
    }

    /// For which time the schedule of a topic fired last.
    pub(super) fn fired(&self) -> String {
        format!("{}:fired", self.prefix)
    }
}

/// How a subscription is named where many are.
pub(super) fn subscription(topic: &str, service: &str) -> String {
    format!("{topic} {service}")
}

/// The partition of an event: the same for all of one subject, on every host and in every version. What has no subject
/// goes by its id.
pub(super) fn partition(event: &Event, partitions: u16) -> u16 {
    let key = event.subject.as_deref().unwrap_or(&event.id);
    // FNV-1a, folded since its low bits alone are poor.
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ((hash ^ (hash >> 32)) % u64::from(partitions.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_stays_in_its_partition_and_subjects_are_spread() {
        let mut event = Event::from_channel("a".into(), "1".into()).unwrap();
        let mut of = |subject: &str| {
            event.subject = Some(subject.into());
            partition(&event, 8)
        };
        // Events lie in Redis by this: these must never change.
        assert_eq!(["", "7", "order-7", "é"].map(&mut of), GOLDEN);
        let mut counts = [0; 8];
        for n in 0..8000 {
            counts[usize::from(of(&n.to_string()))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        event.subject = None;
        assert_eq!(partition(&event, 1), 0);
    }

    const GOLDEN: [u16; 4] = [1, 2, 4, 6];
}
