//! A payment and the states that it goes through.

use money::Money;
use serde::Serialize;
use wharf_sdk::{from_row, text_values};

/// A payment, as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    pub id: String,
    pub order_id: String,
    pub user_id: String,
    pub amount: Money,
    pub status: Status,
    /// Why it was declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub created_at: String,
}

from_row!(Payment { id, order_id, user_id, amount, status, reason, created_at });

/// How far a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// The amount is set aside for the shop.
    Authorised,
    /// The amount is the shop's.
    Captured,
    /// It was called off before it was captured.
    Voided,
    /// It was captured and given back.
    Refunded,
    /// It was never authorised.
    Declined,
}

/// What happens to a payment: each moves its amount in the ledger, from one account to another, and is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Which step of the payment it is; there is one transfer of each.
    pub step: u32,
    pub source: &'static str,
    pub target: &'static str,
    /// What the payment is after it.
    pub status: Status,
    pub topic: &'static str,
}

text_values!(Status {
    Authorised = "AUTHORISED",
    Captured = "CAPTURED",
    Voided = "VOIDED",
    Refunded = "REFUNDED",
    Declined = "DECLINED",
});

const AUTHORISE: Transfer = Transfer {
    step: 1,
    source: "customers",
    target: "authorised",
    status: Status::Authorised,
    topic: "payment.authorised",
};
const CAPTURE: Transfer =
    Transfer { step: 2, source: "authorised", target: "captured", status: Status::Captured, topic: "payment.captured" };
const VOID: Transfer =
    Transfer { step: 2, source: "authorised", target: "customers", status: Status::Voided, topic: "payment.refunded" };
const REFUND: Transfer =
    Transfer { step: 3, source: "captured", target: "customers", status: Status::Refunded, topic: "payment.refunded" };

// === impl Transfer ===

impl Transfer {
    /// What sets an amount aside.
    pub const fn authorisation() -> Self {
        AUTHORISE
    }

    /// What takes the amount of a payment of this status, where that can be.
    pub fn capture_of(status: Status) -> Option<Self> {
        (status == Status::Authorised).then_some(CAPTURE)
    }

    /// What gives the amount of a payment of this status back, where there is something to give.
    pub fn refund_of(status: Status) -> Option<Self> {
        match status {
            Status::Authorised => Some(VOID),
            Status::Captured => Some(REFUND),
            Status::Voided | Status::Refunded | Status::Declined => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_through_the_states_leaves_each_account_with_what_the_status_says() {
        let held_in = |status| match status {
            Status::Authorised => "authorised",
            Status::Captured => "captured",
            Status::Voided | Status::Refunded | Status::Declined => "customers",
        };
        let (mut ways, mut ends) = (vec![Transfer::authorisation()], 0);
        while let Some(last) = ways.pop() {
            assert_eq!(last.target, held_in(last.status), "{last:?}");
            let next = [Transfer::capture_of(last.status), Transfer::refund_of(last.status)];
            ends += u32::from(next == [None, None]);
            for next in next.into_iter().flatten() {
                assert_eq!((next.source, next.step), (last.target, last.step + 1), "{last:?} {next:?}");
                ways.push(next);
            }
        }
        assert_eq!(ends, 2, "voided, and captured and refunded");
    }

    #[test]
    fn a_status_is_the_same_in_json_and_in_the_database() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_string(status).unwrap(), format!("{:?}", status.as_str()));
        }
    }
}
