//! An order and the states that it goes through.

use money::Money;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use wharf_sdk::{
    Error, Result,
    db::{FromValue, Value},
    from_row,
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

/// The items of an order, as the JSON that clients see: the database keeps it so, and nothing here looks inside.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Items(Box<RawValue>);

/// One item of an order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item<'a> {
    pub product_id: &'a str,
    pub quantity: u32,
    /// The price of one, when it was ordered.
    pub price: Money,
}

/// How far an order is. `Pending` is the only one that it can leave.
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

// === impl Items ===

impl Items {
    pub fn new(items: &[Item<'_>]) -> Result<Self> {
        to_raw_value(items).map(Self).map_err(Error::internal)
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
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
    const ALL: [Self; 3] = [Self::Pending, Self::Confirmed, Self::Cancelled];

    /// As clients and the database know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether an order of this status has to be changed to be `target`, or is so already. Asking twice for the same
    /// is no error: the client may not have got the first answer.
    pub fn must_change_to(self, target: Self) -> Result<bool> {
        match (self, target) {
            (Self::Pending, Self::Confirmed | Self::Cancelled) => Ok(true),
            (now, target) if now == target => Ok(false),
            (now, target) => {
                Err(Error::bad_request(format!("Order is {} and cannot become {}", now.as_str(), target.as_str())))
            }
        }
    }
}

impl From<Status> for Value {
    fn from(status: Status) -> Self {
        status.as_str().into()
    }
}

impl FromValue for Status {
    fn from_value(value: Value) -> Result<Self, Value> {
        let text = String::from_value(value)?;
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(Value::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pending_order_can_change() {
        use Status::{Cancelled, Confirmed, Pending};
        for target in [Confirmed, Cancelled] {
            assert_eq!(Pending.must_change_to(target), Ok(true));
            assert_eq!(target.must_change_to(target), Ok(false));
        }
        for (now, target) in
            [(Confirmed, Cancelled), (Cancelled, Confirmed), (Confirmed, Pending), (Cancelled, Pending)]
        {
            assert_eq!(now.must_change_to(target).unwrap_err().status(), 400);
        }
    }

    #[test]
    fn a_status_is_the_same_in_json_and_in_the_database() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("{:?}", status.as_str()));
            assert_eq!(Status::from_value(status.into()), Ok(status));
        }
        assert!(Status::from_value("pending".into()).is_err());
    }

    #[test]
    fn items_come_back_from_the_database_as_they_went_in() {
        let price = Money::from_minor(150).unwrap();
        let items = Items::new(&[Item { product_id: "p-\"1", quantity: 2, price }]).unwrap();
        assert_eq!(items.as_json(), r#"[{"productId":"p-\"1","quantity":2,"price":1.5}]"#);
        assert_eq!(Items::from_value(items.as_json().into()).unwrap().as_json(), items.as_json());
        assert!(Items::from_value("not json".into()).is_err());
    }
}
