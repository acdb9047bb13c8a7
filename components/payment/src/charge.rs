//! What neighbours may ask for.

use crate::payment::Payment;
use money::Money;
use serde::Serialize;

const KEY_MAX: usize = 512;
const ID_MAX: usize = 64;

/// What is to be paid, within bounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Charge {
    pub order_id: String,
    pub user_id: String,
    pub amount: Money,
    pub method: Option<String>,
}

/// What a call with a key asks for. As JSON it is what tells a repetition from another use of the key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Request<'a> {
    Authorise(&'a Charge),
    /// Of the payment with this id.
    Capture(&'a str),
    /// Of the payment with this id.
    Refund(&'a str),
    /// Of the authorisation with this key.
    CallOff(&'a str),
}

// === impl Charge ===

impl Charge {
    /// The same as neighbours say it.
    ///
    /// # Errors
    /// What of it is out of bounds.
    pub fn new(order_id: String, user_id: String, amount: i64, method: Option<String>) -> Result<Self, String> {
        let amount = Money::from_minor(amount).filter(|amount| *amount > Money::ZERO).ok_or_else(|| {
            format!("the amount {amount} is not one: expected 1 to {} hundredths", Money::MAX.minor())
        })?;
        let ids = [("order-id", Some(&order_id)), ("user-id", Some(&user_id)), ("method", method.as_ref())];
        for (name, id) in ids {
            if id.is_some_and(|id| !is_visible(id, ID_MAX)) {
                return Err(format!("{name}: expected 1 to {ID_MAX} visible characters of ASCII"));
            }
        }
        Ok(Self { order_id, user_id, amount, method })
    }

    /// The payment that it becomes. It is declined for a `reason`, where there is one.
    pub fn into_payment(self, id: String, created_at: String, reason: Option<String>) -> Payment {
        use crate::payment::Status;
        let status = if reason.is_some() { Status::Declined } else { Status::Authorised };
        let Self { order_id, user_id, amount, method: _ } = self;
        Payment { id, order_id, user_id, amount, status, reason, created_at }
    }
}

/// That a key is one.
///
/// # Errors
/// What is expected.
pub fn check_key(key: &str) -> Result<(), String> {
    if is_visible(key, KEY_MAX) {
        Ok(())
    } else {
        Err(format!("the key is not one: expected 1 to {KEY_MAX} visible characters of ASCII"))
    }
}

fn is_visible(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_ids_and_keys_are_bounded() {
        let charge = |order: &str, amount, method: Option<&str>| {
            Charge::new(order.into(), "u".into(), amount, method.map(Into::into))
        };
        assert!(charge("o", 1, Some("card")).is_ok());
        for amount in [0, -1, i64::MIN, Money::MAX.minor() + 1] {
            assert!(charge("o", amount, None).is_err(), "{amount}");
        }
        let long = "o".repeat(65);
        for id in ["", "a b", "ä", "a\n", &long] {
            assert!(charge(id, 1, None).is_err() && charge("o", 1, Some(id)).is_err(), "{id:?}");
        }
        assert!(check_key("checkout/checkout/id-1/authorise").is_ok());
        assert!(check_key("").is_err() && check_key(&"k".repeat(513)).is_err());
    }

    #[test]
    fn another_request_is_another_text() {
        let charge = Charge::new("o".into(), "u".into(), 1250, None).unwrap();
        let texts = [
            Request::Authorise(&charge),
            Request::Authorise(&Charge { method: Some("card".into()), ..charge.clone() }),
            Request::Capture("p"),
            Request::Refund("p"),
            Request::CallOff("p"),
        ]
        .map(|request| serde_json::to_string(&request).unwrap());
        assert_eq!(texts[0], r#"{"authorise":{"order_id":"o","user_id":"u","amount":12.5,"method":null}}"#);
        assert!((1..5).all(|n| !texts[..n].contains(&texts[n])), "{texts:?}");
    }
}
