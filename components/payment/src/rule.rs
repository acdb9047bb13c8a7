//! Which payments are declined, as the manifest has it.

use crate::charge::Charge;
use money::Money;
use wharf_sdk::config;

/// The rule: what `config` of the service says.
///
/// - `decline-above = "5000.00"`: more than this at a time;
/// - `decline-users = "id, id"`: all that these users want to pay;
/// - `decline-methods = "token, token"`: all that is to be paid by one of these.
///
/// What is not there declines nothing.
#[derive(Debug, Default)]
pub struct Rule {
    above: Option<Money>,
    users: Vec<String>,
    methods: Vec<String>,
}

// === impl Rule ===

impl Rule {
    /// As the manifest has it.
    ///
    /// # Errors
    /// Where what it has is no rule; the text says what is expected.
    pub fn configured() -> Result<Self, String> {
        let value = |key| config::get(key).map_err(|error| error.to_string());
        Self::new(value("decline-above")?.as_deref(), value("decline-users")?, value("decline-methods")?)
    }

    fn new(above: Option<&str>, users: Option<String>, methods: Option<String>) -> Result<Self, String> {
        let above = above
            .map(|text| Money::parse(text).map_err(|error| format!("config decline-above = {text:?} is {error}")))
            .transpose()?;
        let list = |text: Option<String>| -> Vec<String> {
            let text = text.unwrap_or_default();
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Ok(Self { above, users: list(users), methods: list(methods) })
    }

    /// Why this is declined, where it is.
    pub fn declines(&self, charge: &Charge) -> Option<String> {
        let is_in = |list: &[String], name: &str| list.iter().any(|it| it == name);
        match self.above {
            Some(above) if charge.amount > above => return Some(format!("More than {above} cannot be paid at once")),
            _ => {}
        }
        if is_in(&self.users, &charge.user_id) {
            return Some("This customer's payments are declined".to_owned());
        }
        let method = charge.method.as_deref()?;
        is_in(&self.methods, method).then(|| "This method of payment is declined".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(minor: i64, user: &str, method: Option<&str>) -> Charge {
        Charge::new("o".into(), user.into(), minor, method.map(Into::into)).unwrap()
    }

    #[test]
    fn what_is_not_said_declines_nothing() {
        let rule = Rule::new(None, None, None).unwrap();
        assert_eq!(rule.declines(&charge(Money::MAX.minor(), "u", Some("card"))), None);
    }

    #[test]
    fn an_amount_a_user_and_a_method_can_be_declined() {
        let rule = Rule::new(Some("50.00"), Some("eve, mallory,".into()), Some("card-0002".into())).unwrap();
        assert_eq!(rule.declines(&charge(5000, "ada", Some("card-4242"))), None);
        for declined in [charge(5001, "ada", None), charge(1, "mallory", None), charge(1, "ada", Some("card-0002"))] {
            assert!(rule.declines(&declined).is_some(), "{declined:?}");
        }
    }

    #[test]
    fn what_is_no_amount_is_no_rule() {
        let error = Rule::new(Some("5,000"), None, None).unwrap_err();
        assert!(error.starts_with(r#"config decline-above = "5,000" is not an amount"#), "{error}");
    }
}
