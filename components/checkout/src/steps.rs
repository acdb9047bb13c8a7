//! The checkout, step by step.
//!
//! ```text
//! create-order ──► pay ──────────► reserve ──► confirm
//!      cancel ◄── refund or void ◄── release
//! ```
//!
//! Every call carries the key of its step, so one that is made again has no second effect, and what takes it back finds it by
//! the same key, whether it had come about or not.

use crate::{
    request::{Item, NewCheckout},
    wit::shop::{
        inventory::inventory::{self, ReservationError},
        orders::orders::{self, OrderError},
        payments::payments::{self, Charge, PaymentError, Refundable},
    },
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_sdk::saga::{self, Error, Saga, Step, failed};

/// The saga's name.
pub const NAME: &str = "checkout";

/// A customer does not wait longer; what takes longer is taken back.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What the steps leave for each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkout {
    pub user_id: String,
    pub items: Vec<Item>,
    pub payment_method: Option<String>,
    pub order_id: Option<String>,
    /// In minor units.
    pub total: Option<i64>,
    pub payment_id: Option<String>,
    /// By which the goods are reserved.
    pub reservation: Option<String>,
}

/// The saga.
pub fn checkout() -> Saga<Checkout> {
    Saga::new(NAME)
        .timeout(TIMEOUT)
        .step("create-order", create_order)
        .undo(cancel_order)
        .step("pay", pay)
        .undo(refund)
        .step("reserve", reserve)
        .undo(release)
        .step("confirm", confirm)
}

async fn create_order(step: &Step, checkout: &mut Checkout) -> saga::Result {
    let item = |item: &Item| orders::Item { product_id: item.product_id.clone(), quantity: item.quantity };
    let items = checkout.items.iter().map(item).collect();
    let order = orders::place(step.key.clone(), checkout.user_id.clone(), items).await?;
    checkout.total = Some(order.total);
    checkout.order_id = Some(order.id);
    Ok(())
}

async fn cancel_order(step: &Step, checkout: &mut Checkout) -> saga::Result {
    let order = match &checkout.order_id {
        Some(id) => orders::Reference::Id(id.clone()),
        None => orders::Reference::Key(step.key_of_action()),
    };
    let reason = step.reason.as_deref().unwrap_or_default();
    orders::cancel(order, reason.chars().filter(|c| !c.is_control()).take(500).collect()).await?;
    Ok(())
}

async fn pay(step: &Step, checkout: &mut Checkout) -> saga::Result {
    let charge = Charge {
        order_id: known(&checkout.order_id)?,
        user_id: checkout.user_id.clone(),
        amount: known(&checkout.total)?,
        method: checkout.payment_method.clone(),
    };
    // Nothing is to be paid for what is given away.
    if charge.amount == 0 {
        return Ok(());
    }
    let payment = payments::authorise(step.key.clone(), charge).await?;
    payments::capture(format!("{}/capture", step.key), payment.id.clone()).await?;
    checkout.payment_id = Some(payment.id);
    Ok(())
}

async fn refund(step: &Step, checkout: &mut Checkout) -> saga::Result {
    let of = Refundable::Authorisation(step.key_of_action());
    payments::refund(step.key.clone(), of).await?;
    checkout.payment_id = None;
    Ok(())
}

async fn reserve(step: &Step, checkout: &mut Checkout) -> saga::Result {
    let item = |item: &Item| inventory::Item { product_id: item.product_id.clone(), quantity: item.quantity };
    let items = checkout.items.iter().map(item).collect();
    inventory::reserve(step.key.clone(), known(&checkout.order_id)?, items, None).await?;
    checkout.reservation = Some(step.key.clone());
    Ok(())
}

async fn release(step: &Step, checkout: &mut Checkout) -> saga::Result {
    inventory::release(step.key_of_action()).await?;
    checkout.reservation = None;
    Ok(())
}

/// The last step: when the order is confirmed there is no way back. So the goods are sold first, which can be taken back.
async fn confirm(_: &Step, checkout: &mut Checkout) -> saga::Result {
    inventory::keep(known(&checkout.reservation)?).await?;
    orders::confirm(known(&checkout.order_id)?).await?;
    Ok(())
}

/// What an earlier step has left.
fn known<T: Clone>(left: &Option<T>) -> saga::Result<T> {
    left.clone().ok_or_else(|| failed("an earlier step has not left what this one needs"))
}

impl From<NewCheckout> for Checkout {
    fn from(NewCheckout { user_id, items, payment_method }: NewCheckout) -> Self {
        Self { user_id, items, payment_method, order_id: None, total: None, payment_id: None, reservation: None }
    }
}

impl From<OrderError> for Error {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Refused(reason) => failed(reason),
            OrderError::NotFound => failed("the order is gone"),
            OrderError::NotPossible(status) => failed(format_args!("the order is {status:?}")),
            OrderError::CalledOff => failed("the order was called off"),
            OrderError::Conflict => failed("the key was used for another order"),
            OrderError::Invalid(reason) => failed(reason),
            OrderError::Fault(fault) => fault.into(),
        }
    }
}

impl From<PaymentError> for Error {
    fn from(error: PaymentError) -> Self {
        match error {
            PaymentError::Declined(reason) => failed(format_args!("the payment was declined: {reason}")),
            PaymentError::NotFound => failed("the payment is gone"),
            PaymentError::NotPossible(status) => failed(format_args!("the payment is {status:?}")),
            PaymentError::CalledOff => failed("the payment was called off"),
            PaymentError::Conflict => failed("the key was used for another payment"),
            PaymentError::Invalid(reason) => failed(reason),
            PaymentError::Fault(fault) => fault.into(),
        }
    }
}

impl From<ReservationError> for Error {
    fn from(error: ReservationError) -> Self {
        match error {
            ReservationError::Shortage(shortages) => {
                let each = |it: &inventory::Shortage| format!("{} ({} of {})", it.product_id, it.available, it.wanted);
                let each: Vec<_> = shortages.iter().map(each).collect();
                failed(format_args!("not enough in stock: {}", each.join(", ")))
            }
            ReservationError::NotFound => failed("the reservation is gone"),
            ReservationError::Expired => failed("the reservation has expired"),
            ReservationError::CalledOff => failed("the reservation was called off"),
            ReservationError::Conflict => failed("the key was used for another reservation"),
            ReservationError::Invalid(reason) => failed(reason),
            ReservationError::Fault(fault) => fault.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_tried_again_and_a_no_is_taken_for_a_no() {
        let no = Error::from(PaymentError::Declined("over the limit".into()));
        assert_eq!(no, failed("the payment was declined: over the limit"));
        let shortage = inventory::Shortage { product_id: "p-1".into(), wanted: 3, available: 2 };
        assert_eq!(
            Error::from(ReservationError::Shortage(vec![shortage])),
            failed("not enough in stock: p-1 (2 of 3)")
        );
    }

    #[test]
    fn steps_are_what_is_taken_back() {
        let definition = format!("{:?}", checkout());
        for step in ["create-order", "pay", "reserve", "confirm"] {
            assert!(definition.contains(step), "{definition}");
        }
    }
}
