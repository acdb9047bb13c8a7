//! Amounts of money: integer minor units inside, exact decimals in JSON.
//!
//! A JSON number is read from its own text and written as text, so that no amount ever passes through a binary
//! floating-point number: 0.1 is ten cents, and three of them are 0.3.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;
use std::fmt;
use wharf_sdk::db::{FromValue, Value};

/// An amount that is not negative, in hundredths of the shop's currency: 1250 is 12.50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// What an account has, in hundredths of the shop's currency: it may be below zero, and beyond [`Money::MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Balance(i64);

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMoney;

// === impl Money ===

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The largest amount, 10,000,000,000,000.00. It has sixteen digits at most, so that also readers that keep JSON
    /// numbers in binary floating point (JavaScript) see every amount exactly as it is written.
    pub const MAX: Self = Self(1_000_000_000_000_000);

    /// The amount of this many minor units, or none where it is negative or beyond [`MAX`](Self::MAX).
    pub const fn from_minor(minor: i64) -> Option<Self> {
        if 0 <= minor && minor <= Self::MAX.0 { Some(Self(minor)) } else { None }
    }

    /// In minor units.
    pub const fn minor(self) -> i64 {
        self.0
    }

    /// This many times the amount, or none beyond [`MAX`](Self::MAX).
    pub fn times(self, quantity: u32) -> Option<Self> {
        self.0.checked_mul(quantity.into()).and_then(Self::from_minor)
    }

    /// The sum, or none beyond [`MAX`](Self::MAX).
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_minor)
    }

    /// Reads a JSON number: `12`, `12.5`, `12.50`; no sign, no exponent, two decimals at most.
    ///
    /// # Errors
    /// Where it is none of that or beyond [`MAX`](Self::MAX).
    pub fn parse(text: &str) -> Result<Self, NotMoney> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 2 {
            return Err(NotMoney);
        }
        let whole: i64 = whole.parse().map_err(|_| NotMoney)?;
        let fraction: i64 = format!("{fraction:0<2}").parse().map_err(|_| NotMoney)?;
        whole.checked_mul(100).and_then(|minor| minor.checked_add(fraction)).and_then(Self::from_minor).ok_or(NotMoney)
    }
}

impl fmt::Display for Money {
    /// As JavaScript writes the number: without decimals that are zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_minor(f, "", self.0.unsigned_abs())
    }
}

fn write_minor(f: &mut fmt::Formatter<'_>, sign: &str, minor: u64) -> fmt::Result {
    let (whole, fraction) = (minor / 100, minor % 100);
    match (fraction / 10, fraction % 10) {
        (0, 0) => write!(f, "{sign}{whole}"),
        (tenths, 0) => write!(f, "{sign}{whole}.{tenths}"),
        (tenths, hundredths) => write!(f, "{sign}{whole}.{tenths}{hundredths}"),
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(text.get()).map_err(de::Error::custom)
    }
}

impl From<Money> for Value {
    fn from(money: Money) -> Self {
        Self::Integer(money.0)
    }
}

impl FromValue for Money {
    fn from_value(value: Value) -> Result<Self, Value> {
        i64::from_value(value).and_then(|minor| Self::from_minor(minor).ok_or(Value::Integer(minor)))
    }
}

// === impl Balance ===

impl Balance {
    /// The balance of this many minor units.
    pub const fn from_minor(minor: i64) -> Self {
        Self(minor)
    }

    /// Both together; what no account can have is the most that one can.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Balance {
    /// As amounts are written, with a sign where it is below zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write_minor(f, sign, self.0.unsigned_abs())
    }
}

impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

// === impl NotMoney ===

impl fmt::Display for NotMoney {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an amount of money: expected a number from 0 to {} with at most two decimals", Money::MAX)
    }
}

impl std::error::Error for NotMoney {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_exactly() {
        for (text, minor) in [
            ("0", 0),
            ("12", 1200),
            ("12.5", 1250),
            ("12.50", 1250),
            ("0.07", 7),
            ("0.1", 10),
            ("1.15", 115),
            ("8.41", 841),
            ("10000000000000.00", 1_000_000_000_000_000),
        ] {
            assert_eq!(Money::parse(text), Ok(Money(minor)), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in [
            "",
            "-1",
            "-0",
            "+1",
            "1.",
            ".5",
            "1.005",
            "1e2",
            "1E2",
            "0x10",
            "NaN",
            "\"1\"",
            "null",
            "1 ",
            "१",
            "10000000000000.01",
            "99999999999999999999",
        ] {
            assert_eq!(Money::parse(text), Err(NotMoney), "{text}");
        }
    }

    #[test]
    fn every_amount_survives_the_way_through_json() {
        for minor in (0..=20_000).chain([99_999_999_999_999, Money::MAX.minor()]) {
            let json = serde_json::to_string(&Money(minor)).unwrap();
            assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), Money(minor), "{json}");
            // A reader with floating-point numbers sees the nearest one to the exact amount.
            let read: f64 = serde_json::from_str(&json).unwrap();
            assert_eq!(format!("{read:.2}"), format!("{}.{:02}", minor / 100, minor % 100), "{json}");
        }
    }

    #[test]
    fn balances_can_be_below_zero() {
        for (minor, json) in
            [(0, "0"), (-7, "-0.07"), (-1250, "-12.5"), (100, "1"), (i64::MIN, "-92233720368547758.08")]
        {
            assert_eq!(serde_json::to_string(&Balance::from_minor(minor)).unwrap(), json);
        }
        assert_eq!(Balance::from_minor(-5).plus(Balance::from_minor(5)), Balance::default());
    }

    #[test]
    fn sums_stop_at_the_limit() {
        assert_eq!(Money(150).times(3), Some(Money(450)));
        assert_eq!(Money(150).plus(Money(50)), Some(Money(200)));
        assert_eq!(Money::MAX.times(2), None);
        assert_eq!(Money::MAX.times(u32::MAX), None);
        assert_eq!(Money::MAX.plus(Money(1)), None);
    }
}
