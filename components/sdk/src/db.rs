//! The service's own database.
//!
//! Statements are SQL with `$1`, `$2`, … for parameters; rows become tuples by position, or structs by the names of
//! their columns ([`from_row!`](crate::from_row)).

pub use crate::bindings::wharf::store::sql::{Constraint, Error, Value};
use crate::{
    bindings::{
        migrations::exports::wharf::store::migrations::Migration,
        wharf::{
            outbox::outbox,
            store::sql::{self, Rows},
        },
    },
    events::{NewEvent, OutboxError},
};

/// What this module returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A statement with its parameters.
pub type Statement = sql::Statement;

/// A row of a query's result.
#[derive(Debug)]
pub struct Row<'a> {
    columns: &'a [String],
    values: Vec<Value>,
}

/// What a row can become.
pub trait FromRow: Sized {
    /// Takes the values out of the row.
    ///
    /// # Errors
    /// Where a column is missing or holds another type.
    fn from_row(row: &mut Row<'_>) -> Result<Self>;
}

/// What a value in a row can become.
pub trait FromValue: Sized {
    /// The value as this type, or the value back where it is of another.
    ///
    /// # Errors
    /// Where it is of another type.
    fn from_value(value: Value) -> std::result::Result<Self, Value>;
}

/// A transaction; dropped without [`commit`](Transaction::commit), it is rolled back. Where the statements are known
/// beforehand, [`batch`] is cheaper.
#[derive(Debug)]
pub struct Transaction(sql::Transaction);

/// A statement for [`batch`].
pub fn statement(sql: &str, params: Vec<Value>) -> Statement {
    Statement { sql: sql.to_owned(), params }
}

/// All rows of a query.
///
/// # Errors
/// See [`Error`]; as for all functions here.
pub async fn query<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Vec<T>> {
    decode(sql::query(statement(sql, params)).await?)
}

/// The first row of a query, where there is one.
///
/// # Errors
/// See [`Error`].
pub async fn query_optional<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Option<T>> {
    first(sql::query(statement(sql, params)).await?)
}

/// Runs a statement and returns how many rows it changed.
///
/// # Errors
/// See [`Error`].
pub async fn execute(sql: &str, params: Vec<Value>) -> Result<u64> {
    sql::execute(statement(sql, params)).await
}

/// Runs statements in one transaction, all or none, and returns how many rows each changed.
///
/// One that changes no row is no reason to undo the others. One that is to be, where a row is not what it was when it was read,
/// sets what may not be NULL to NULL then, which [`is_missing`] tells:
///
/// ```sql
/// UPDATE orders SET status = CASE status WHEN 'PENDING' THEN 'CONFIRMED' END WHERE id = $1
/// ```
///
/// # Errors
/// See [`Error`].
pub async fn batch(statements: Vec<Statement>) -> Result<Vec<u64>> {
    sql::batch(statements).await
}

/// As [`batch`], and publishes events: they leave if all of it is written, and surely then, and else not. Returns their ids
/// too.
///
/// # Errors
/// See [`OutboxError`]; nothing was written then, and no event leaves.
pub async fn batch_and_publish(
    statements: Vec<Statement>,
    events: Vec<NewEvent>,
) -> std::result::Result<(Vec<u64>, Vec<String>), OutboxError> {
    outbox::batch(statements, events).await
}

/// Begins a transaction.
///
/// # Errors
/// See [`Error`].
pub async fn begin() -> Result<Transaction> {
    sql::begin().await.map(Transaction)
}

/// The steps of a schema as the host wants them: the version of each is its place in the list, counted from 1.
#[doc(hidden)]
pub fn migrations(steps: &[(&str, &str)]) -> Vec<Migration> {
    (1..)
        .zip(steps)
        .map(|(version, (name, sql))| Migration { version, name: (*name).to_owned(), sql: (*sql).to_owned() })
        .collect()
}

/// Whether a statement failed because it would have made a second row where only one may be.
pub fn is_duplicate(error: &Error) -> bool {
    matches!(error, Error::Constraint((Constraint::Unique, _)))
}

/// Whether a statement failed because it would have left a place empty that may not be.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Constraint((Constraint::NotNull, _)))
}

fn decode<T: FromRow>(Rows { columns, rows }: Rows) -> Result<Vec<T>> {
    rows.into_iter().map(|values| T::from_row(&mut Row { columns: &columns, values })).collect()
}

fn first<T: FromRow>(Rows { columns, rows }: Rows) -> Result<Option<T>> {
    rows.into_iter().next().map(|values| T::from_row(&mut Row { columns: &columns, values })).transpose()
}

// === impl Transaction ===

impl Transaction {
    /// All rows of a query.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query<T: FromRow>(&self, sql: &str, params: Vec<Value>) -> Result<Vec<T>> {
        decode(self.0.query(statement(sql, params)).await?)
    }

    /// The first row of a query, where there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query_optional<T: FromRow>(&self, sql: &str, params: Vec<Value>) -> Result<Option<T>> {
        first(self.0.query(statement(sql, params)).await?)
    }

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(&self, sql: &str, params: Vec<Value>) -> Result<u64> {
        self.0.execute(statement(sql, params)).await
    }

    /// Publishes an event with the transaction: it leaves if that is committed, and surely then, and else not. Returns its
    /// id.
    ///
    /// # Errors
    /// See [`OutboxError`]; the transaction goes on without the event.
    pub async fn publish(&self, event: NewEvent) -> std::result::Result<String, OutboxError> {
        outbox::publish(&self.0, event).await
    }

    /// Makes all of it durable and visible.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn commit(self) -> Result<()> {
        self.0.commit().await
    }

    /// Undoes all of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rollback(self) -> Result<()> {
        self.0.rollback().await
    }
}

// === impl Row ===

impl Row<'_> {
    /// Takes the value of the column with this name.
    ///
    /// # Errors
    /// Where there is no such column or it holds another type.
    pub fn take<T: FromValue>(&mut self, column: &str) -> Result<T> {
        self.take_at(self.place(column)?)
    }

    /// Whether there is nothing in the column with this name: after a LEFT JOIN, whether there is a row of the other table.
    ///
    /// # Errors
    /// Where there is no such column.
    pub fn is_null(&self, column: &str) -> Result<bool> {
        Ok(self.values.get(self.place(column)?) == Some(&Value::Null))
    }

    fn place(&self, column: &str) -> Result<usize> {
        let missing = || format!("no column {column:?} in the result, only {}", self.columns.join(", "));
        self.columns.iter().position(|name| name == column).ok_or_else(|| Error::Invalid(missing()))
    }

    /// Takes the value at this place, counted from 0.
    ///
    /// # Errors
    /// Where there is no such column or it holds another type.
    pub fn take_at<T: FromValue>(&mut self, index: usize) -> Result<T> {
        let Some(value) = self.values.get_mut(index) else {
            return Err(Error::Invalid(format!("no column {index} in the result, only {}", self.values.len())));
        };
        T::from_value(std::mem::replace(value, Value::Null)).map_err(|value| {
            let column = self.columns.get(index).map_or("?", String::as_str);
            Error::Invalid(format!(
                "column {column:?} holds {}, expected {}",
                value.type_name(),
                std::any::type_name::<T>()
            ))
        })
    }
}

// === impl Value ===

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Text(_) => "text",
            Self::Blob(_) => "a blob",
        }
    }
}

macro_rules! values {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

values!(i64 => Integer, i32 => Integer, u32 => Integer, bool => Integer, f64 => Real, String => Text, Vec<u8> => Blob);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

// === impl FromValue ===

impl FromValue for String {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        if let Value::Text(text) = value { Ok(text) } else { Err(value) }
    }
}

impl FromValue for i64 {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        if let Value::Integer(number) = value { Ok(number) } else { Err(value) }
    }
}

/// SQL's dialects disagree on booleans, so they are integers: 0 and 1.
impl FromValue for bool {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        match value {
            Value::Integer(0) => Ok(false),
            Value::Integer(1) => Ok(true),
            other => Err(other),
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        if let Value::Real(number) = value { Ok(number) } else { Err(value) }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        if let Value::Blob(bytes) = value { Ok(bytes) } else { Err(value) }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        if value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

// === impl FromRow ===

macro_rules! tuples {
    ($(($($type:ident $index:tt),+))*) => {$(
        impl<$($type: FromValue),+> FromRow for ($($type,)+) {
            fn from_row(row: &mut Row<'_>) -> Result<Self> {
                Ok(($(row.take_at::<$type>($index)?,)+))
            }
        }
    )*};
}

tuples! { (A 0) (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) }

/// The parameters of a statement: `params![id, name]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::db::Value::from($value)),*]
    };
}

/// Lets rows become a struct, whose fields have the names of the columns: `from_row!(User { id, email, name });`
#[macro_export]
macro_rules! from_row {
    ($type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::db::FromRow for $type {
            fn from_row(row: &mut $crate::db::Row<'_>) -> $crate::db::Result<Self> {
                Ok(Self { $($field: row.take(stringify!($field))?),+ })
            }
        }
    };
}

/// Lets an enum without fields be text in the database, and anywhere else where it has a name:
/// `text_values!(Status { Pending = "PENDING", Confirmed = "CONFIRMED" });`
///
/// It gets `ALL` and `as_str`, and becomes a [`Value`](crate::db::Value) and is made from one.
#[macro_export]
macro_rules! text_values {
    ($type:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $type {
            /// All that there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As the database knows it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl From<$type> for $crate::db::Value {
            fn from(value: $type) -> Self {
                value.as_str().into()
            }
        }

        impl $crate::db::FromValue for $type {
            fn from_value(value: $crate::db::Value) -> ::std::result::Result<Self, $crate::db::Value> {
                let text = <::std::string::String as $crate::db::FromValue>::from_value(value)?;
                match text.as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::db::Value::Text(text)),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct User {
        id: String,
        age: Option<i64>,
        active: bool,
    }

    from_row!(User { id, age, active });

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Light {
        Red,
        Green,
    }

    text_values!(Light { Red = "RED", Green = "GREEN" });

    fn rows(columns: &[&str], values: Vec<Value>) -> Rows {
        Rows { columns: columns.iter().map(|name| (*name).to_owned()).collect(), rows: vec![values] }
    }

    #[test]
    fn structs_are_filled_by_the_names_of_the_columns() {
        let user: Vec<User> = decode(rows(&["active", "id", "age"], params![true, "u", None::<i64>])).unwrap();
        assert_eq!(user, [User { id: "u".into(), age: None, active: true }]);
    }

    #[test]
    fn tuples_are_filled_by_position() {
        let found: Option<(i64, String)> = first(rows(&["n", "s"], params![7, "x"])).unwrap();
        assert_eq!(found, Some((7, "x".into())));
    }

    #[test]
    fn an_enum_comes_back_from_the_database_as_it_went_in() {
        for light in Light::ALL {
            assert_eq!(Light::from_value((*light).into()), Ok(*light));
        }
        assert_eq!(Value::from(Light::Green), "GREEN".into());
        assert_eq!(Light::from_value("green".into()), Err("green".into()));
        assert_eq!(Light::from_value(1.into()), Err(1.into()));
    }

    #[test]
    fn a_row_says_what_is_not_in_it() {
        let columns = ["id", "age"].map(str::to_owned);
        let row = Row { columns: &columns, values: params!["u", None::<i64>] };
        assert_eq!((row.is_null("id"), row.is_null("age")), (Ok(false), Ok(true)));
        assert!(matches!(row.is_null("name"), Err(Error::Invalid(text)) if text.contains("\"name\"")));
    }

    #[test]
    fn another_type_or_a_missing_column_is_an_error_that_names_it() {
        let Err(Error::Invalid(text)) = decode::<(i64,)>(rows(&["n"], params!["x"])) else { panic!() };
        assert!(text.contains("\"n\" holds text"), "{text}");
        let Err(Error::Invalid(text)) = decode::<User>(rows(&["id"], params!["x"])) else { panic!() };
        assert!(text.contains("\"age\""), "{text}");
    }
}
