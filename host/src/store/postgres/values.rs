//! Values on their way to PostgreSQL and back.
//!
//! A parameter has the type that its place in the statement gives it. Numbers and texts are sent as text, so that
//! PostgreSQL reads them as whatever that type is: a time, a UUID, a `NUMERIC`, a `BOOLEAN`. What comes back is one of
//! the few kinds that a service knows: whole numbers and booleans are integers, what is not whole is real, as a
//! `NUMERIC` is in SQLite, and times, UUIDs and JSON are texts.

use crate::store::{Error, Value};
use bytes::BytesMut;
use jiff::{SignedDuration, Timestamp, civil::Date};
use std::error::Error as StdError;
use thiserror::Error as ThisError;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type};

/// A value that does not go with the type that its place has.
#[derive(Debug, ThisError)]
#[error("{0}")]
pub(super) struct Unfit(String);

/// A parameter.
#[derive(Debug)]
pub(super) struct Param<'v>(pub(super) &'v Value);

/// A value of a row.
pub(super) struct Column(pub(super) Value);

type Boxed = Box<dyn StdError + Sync + Send>;

/// The type itself, where `ty` is a domain.
fn base(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(inner) => base(inner),
        _ => ty,
    }
}

fn is_integer(ty: &Type) -> bool {
    [Type::INT2, Type::INT4, Type::INT8].contains(ty)
}

/// How long what a value counts for is, beside its place.
pub(super) fn length(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(blob) => blob.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
    }
}

/// Refuses a parameter that is longer than it may be.
pub(super) fn check_length(value: &Value, max: usize) -> Result<(), Error> {
    let length = length(value);
    if length > max {
        return Err(Error::TooLarge(format!("a value of {length} bytes, more than the {max} allowed")));
    }
    Ok(())
}

// === impl Param ===

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        let ty = base(ty);
        let unfit = |what: &str| Err(Unfit(format!("a parameter is {what}, where {} is expected", ty.name())).into());
        match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Blob(blob) if *ty == Type::BYTEA => out.extend_from_slice(blob),
            Value::Blob(_) => return unfit("a blob"),
            _ if *ty == Type::BYTEA => return unfit("no blob"),
            Value::Text(text) if text.contains('\0') => {
                return Err(Unfit("a text with a NUL character can't be stored; store it as a blob".into()).into());
            }
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Integer(integer) => out.extend_from_slice(integer.to_string().as_bytes()),
            // Whole, so that it goes where SQLite would take it as an integer.
            Value::Real(real) if is_integer(ty) && real.fract() == 0.0 && real.abs() < 9e18 => {
                out.extend_from_slice(format!("{real:.0}").as_bytes());
            }
            Value::Real(real) => out.extend_from_slice(format!("{real:?}").as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if matches!(self.0, Value::Blob(_)) { Format::Binary } else { Format::Text }
    }

    tokio_postgres::types::to_sql_checked!();
}

// === impl Column ===

impl<'a> FromSql<'a> for Column {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Boxed> {
        let ty = base(ty);
        let value = match *ty {
            Type::BOOL => Value::Integer(bool::from_sql(ty, raw)?.into()),
            Type::INT2 => Value::Integer(i16::from_sql(ty, raw)?.into()),
            Type::INT4 => Value::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Value::Integer(i64::from_sql(ty, raw)?),
            Type::OID => Value::Integer(u32::from_sql(ty, raw)?.into()),
            Type::FLOAT4 => Value::Real(f32::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(ty, raw)?),
            Type::NUMERIC => number(raw).ok_or("a NUMERIC in no form that is known")?,
            Type::BYTEA => Value::Blob(raw.to_vec()),
            Type::UUID => Value::Text(uuid::Uuid::from_slice(raw)?.to_string()),
            Type::JSONB => Value::Text(str::from_utf8(raw.get(1..).unwrap_or_default())?.to_owned()),
            Type::TIMESTAMPTZ | Type::TIMESTAMP => {
                let time = moment(i64::from_sql(&Type::INT8, raw)?)?.to_string();
                let local = *ty == Type::TIMESTAMP;
                Value::Text(if local { time.trim_end_matches('Z').to_owned() } else { time })
            }
            Type::DATE => {
                let days = i32::from_sql(&Type::INT4, raw)?;
                Value::Text(Date::constant(2000, 1, 1).checked_add(jiff::Span::new().try_days(days)?)?.to_string())
            }
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::JSON | Type::XML => {
                Value::Text(str::from_utf8(raw)?.to_owned())
            }
            Type::VOID => Value::Null,
            _ if matches!(ty.kind(), Kind::Enum(_)) => Value::Text(str::from_utf8(raw)?.to_owned()),
            _ => {
                return Err(
                    Unfit(format!("has the type {}, which no value here has; CAST it AS TEXT", ty.name())).into()
                );
            }
        };
        Ok(Self(value))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Boxed> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A moment, from microseconds since the year 2000.
fn moment(microseconds: i64) -> Result<Timestamp, Boxed> {
    match microseconds {
        i64::MAX | i64::MIN => Err(Unfit("is an infinite time; CAST it AS TEXT".into()).into()),
        _ => {
            let epoch = Timestamp::from_second(946_684_800)?;
            Ok(epoch.checked_add(SignedDuration::from_micros(microseconds))?)
        }
    }
}

/// A `NUMERIC`: an integer where it is whole and fits, else real.
fn number(raw: &[u8]) -> Option<Value> {
    let mut words = raw.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?.cast_signed(), words.next()?, words.next()?);
    match sign {
        0xC000 => return Some(Value::Real(f64::NAN)),
        0xD000 => return Some(Value::Real(f64::INFINITY)),
        0xF000 => return Some(Value::Real(f64::NEG_INFINITY)),
        _ => {}
    }
    let digits: Vec<u16> = words.take(usize::from(count)).collect();
    if digits.len() != usize::from(count) || digits.iter().any(|digit| *digit > 9_999) {
        return None;
    }
    // Groups of four decimal digits, of which `weight + 1` stand before the point.
    let whole = usize::try_from(i32::from(weight) + 1).unwrap_or(0);
    let mut text = String::from(if sign == 0x4000 { "-" } else { "" });
    text.push('0');
    for at in 0..whole {
        text += &format!("{:04}", digits.get(at).copied().unwrap_or(0));
    }
    let fraction = digits.get(whole..).unwrap_or_default();
    if fraction.iter().all(|digit| *digit == 0)
        && let Ok(integer) = text.parse()
    {
        return Some(Value::Integer(integer));
    }
    text.push('.');
    for _ in 0..usize::try_from(-(i32::from(weight) + 1)).unwrap_or(0) {
        text += "0000";
    }
    let fraction = digits.get(whole..).unwrap_or_default();
    fraction.iter().for_each(|digit| text += &format!("{digit:04}"));
    text.parse().ok().map(Value::Real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(sign: u16, weight: i16, digits: &[u16]) -> Value {
        let mut words = vec![u16::try_from(digits.len()).unwrap(), weight.cast_unsigned(), sign, 4];
        words.extend(digits);
        number(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn numerics_are_integers_where_they_are_whole() {
        assert_eq!(numeric(0, 0, &[]), Value::Integer(0));
        assert_eq!(numeric(0x4000, 1, &[12, 3456]), Value::Integer(-123_456));
        assert_eq!(numeric(0, 1, &[1]), Value::Integer(10_000));
        assert_eq!(numeric(0, 0, &[19, 9900]), Value::Real(19.99));
        assert_eq!(numeric(0, -2, &[5]), Value::Real(0.000_000_05));
        assert_eq!(numeric(0, 4, &[922, 3372, 368, 5477, 5807]), Value::Integer(i64::MAX));
        assert_eq!(numeric(0, 4, &[922, 3372, 368, 5477, 5808]), Value::Real(9_223_372_036_854_775_808.0));
        assert_eq!(number(&[0, 9, 0]), None);
        assert_eq!(number(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }

    #[test]
    fn times_are_rfc_3339() {
        let Column(value) = Column::from_sql(&Type::TIMESTAMPTZ, &1_500_000_i64.to_be_bytes()).unwrap();
        assert_eq!(value, Value::Text("2000-01-01T00:00:01.5Z".into()));
        let Column(value) = Column::from_sql(&Type::DATE, &(-1_i32).to_be_bytes()).unwrap();
        assert_eq!(value, Value::Text("1999-12-31".into()));
        assert!(Column::from_sql(&Type::TIMESTAMPTZ, &i64::MAX.to_be_bytes()).is_err());
        assert!(Column::from_sql(&Type::TIMESTAMPTZ, &(i64::MAX - 1).to_be_bytes()).is_err());
    }
}
