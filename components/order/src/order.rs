//! An order and the states that it goes through.

use money::Money;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use wharf_sdk::{
    Error, Result,
    db::{FromValue, Value},
    from_row, text_values,
};

/// An order, as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub id: String,
    pub user_id: String,
    pub items: Items,
    pub total: Money,
    pub status: Status,
    pub created_at: String,
}

from_row!(Order { id, user_id, items, total, status, created_at });

/// The items of an order, as the JSON that clients see: the database keeps it so, and only neighbours get anything else.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Items(Box<RawValue>);

/// One item of an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item<'a> {
    #[serde(borrow)]
    pub product_id: Cow<'a, str>,
    pub quantity: u32,
    /// The price of one, when it was ordered.
    pub price: Money,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Ordered, and neither confirmed nor cancelled yet.
    Pending,
    /// To be delivered.
    Confirmed,
    /// Not to be delivered.
    Cancelled,
}

text_values!(Status { Pending = "PENDING", Confirmed = "CONFIRMED", Cancelled = "CANCELLED" });

/// What can be done with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Confirms one that is pending.
    Confirm,
    /// Cancels one that is pending.
    Cancel,
    /// Cancels one that is pending or confirmed, for this reason: what was begun together with other services may have to be
    /// taken back when the order was confirmed already.
    TakeBack(&'a str),
}

// === impl Items ===

impl Items {
    pub fn new(items: &[Item<'_>]) -> Result<Self> {
        to_raw_value(items).map(Self).map_err(Error::internal)
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Each of them.
    pub fn to_list(&self) -> Result<Vec<Item<'_>>> {
        serde_json::from_str(self.as_json()).map_err(Error::internal)
    }
}

impl FromValue for Items {
    fn from_value(value: Value) -> Result<Self, Value> {
        let text = String::from_value(value)?;
        RawValue::from_string(text).map(Self).map_err(|error| Value::Text(error.to_string()))
    }
}

// === impl Status ===

impl Status {
    /// The answer to a customer who wants what can't follow.
    pub fn refusal(self, target: Self) -> Error {
        Error::bad_request(format!("Order is {} and cannot become {}", self.as_str(), target.as_str()))
    }
}

// === impl Change ===

impl<'a> Change<'a> {
    /// What the order is after it. Asking twice for the same is no error: the client may not have got the first answer.
    pub const fn target(self) -> Status {
        match self {
            Self::Confirm => Status::Confirmed,
            Self::Cancel | Self::TakeBack(_) => Status::Cancelled,
        }
    }

    /// Whether an order of this status can be changed so.
    pub const fn can_follow(self, status: Status) -> bool {
        match status {
            Status::Pending => true,
            Status::Confirmed => matches!(self, Self::TakeBack(_)),
            Status::Cancelled => false,
        }
    }

    pub const fn topic(self) -> &'static str {
        match self {
            Self::Confirm => "order.confirmed",
            Self::Cancel | Self::TakeBack(_) => "order.cancelled",
        }
    }

    pub const fn reason(self) -> Option<&'a str> {
        match self {
            Self::TakeBack(reason) => Some(reason),
            Self::Confirm | Self::Cancel => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_can_change_what_is_pending_and_neighbours_take_back_what_is_confirmed() {
        use Status::{Cancelled, Confirmed, Pending};
        for (change, can_follow) in [
            (Change::Confirm, [true, false, false]),
            (Change::Cancel, [true, false, false]),
            (Change::TakeBack("declined"), [true, true, false]),
        ] {
            assert_eq!(
                [Pending, Confirmed, Cancelled].map(|status| change.can_follow(status)),
                can_follow,
                "{change:?}"
            );
        }
        let refusal = Confirmed.refusal(Cancelled);
        assert_eq!((refusal.status(), refusal.message()), (400, "Order is CONFIRMED and cannot become CANCELLED"));
    }

    #[test]
    fn a_status_is_the_same_in_json_and_in_the_database() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_string(status).unwrap(), format!("{:?}", status.as_str()));
        }
    }

    #[test]
    fn items_come_back_from_the_database_as_they_went_in() {
        let price = Money::from_minor(150).unwrap();
        let items = Items::new(&[Item { product_id: "p-\"1".into(), quantity: 2, price }]).unwrap();
        assert_eq!(items.as_json(), r#"[{"productId":"p-\"1","quantity":2,"price":1.5}]"#);
        assert_eq!(Items::from_value(items.as_json().into()).unwrap().as_json(), items.as_json());
        assert!(Items::from_value("not json".into()).is_err());
        let list = items.to_list().unwrap();
        assert_eq!((list.len(), &*list[0].product_id, list[0].price), (1, "p-\"1", price));
    }
}
