//! Reservations, from being made to their end.
//!
//! Each change is one transaction: the reservation's status, the counts of its products and the events. It begins with the
//! row of the reservation where there is one, so that of two changes of one reservation the second sees what the first did.

use crate::{
    request::{Items, Wanted},
    stock::{self, Move},
    store::{Error, Result},
};
use wharf_sdk::{
    db::{self, FromValue, Transaction, Value},
    from_row, params,
    time::{self, Timestamp},
};

/// How many that are overdue are looked for at a time.
const OVERDUE_MAX: u32 = 100;

/// How a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The items are set aside.
    Held,
    /// The items are sold.
    Kept,
    /// The items were given back.
    Released,
    /// It was not kept in time, and the items are back in stock.
    Expired,
    /// It was released before it came.
    CalledOff,
}

/// A reservation.
#[derive(Debug, PartialEq)]
pub struct Reservation {
    pub key: String,
    pub order_id: String,
    pub items: Items,
    pub status: Status,
    pub expires_at: Timestamp,
}

struct Row {
    order_id: String,
    status: Status,
    expires_at: i64,
}

from_row!(Row { order_id, status, expires_at });

/// What came of an attempt to reserve.
#[derive(Debug, PartialEq)]
pub enum Attempt {
    /// It is reserved.
    Reserved(Reservation),
    /// There is one with this key.
    Found(Reservation),
    /// There is too little of this product.
    TooLittle(String),
}

/// The reservation with this key. One that is held and overdue is looked at as expired: it can't be kept any more, and the
/// next who looks for its items puts them back in stock.
pub async fn find(key: &str) -> Result<Option<Reservation>> {
    let row: Option<Row> =
        db::query_optional("SELECT order_id, status, expires_at FROM reservations WHERE key = $1", params![key])
            .await?;
    let Some(Row { order_id, status, expires_at }) = row else { return Ok(None) };
    let items = db::query("SELECT product_id, quantity FROM reserved_items WHERE key = $1", params![key]).await?;
    let expires_at = timestamp(expires_at);
    let status = if status == Status::Held && expires_at <= time::now() { Status::Expired } else { status };
    Ok(Some(Reservation { key: key.to_owned(), order_id, items: whole(items)?, status, expires_at }))
}

/// Reserves all that is wanted, or nothing.
pub async fn attempt(wanted: &Wanted) -> Result<Attempt> {
    if let Some(found) = find(&wanted.key).await? {
        return Ok(Attempt::Found(found));
    }
    let Wanted { key, order_id, items, ttl } = wanted;
    let expires_at = time::now() + *ttl;
    let transaction = db::begin().await?;
    insert(&transaction, key, order_id, Status::Held, expires_at).await?;
    if let Some(product) = stock::shift(&transaction, items, Move::Reserve).await? {
        transaction.rollback().await?;
        return Ok(Attempt::TooLittle(product));
    }
    let places: Vec<_> = (0..items.len()).map(|n| format!("($1, ${}, ${})", 2 * n + 2, 2 * n + 3)).collect();
    let values = items.iter().flat_map(|(id, quantity)| [Value::from(id), Value::from(*quantity)]);
    let insert_items = format!("INSERT INTO reserved_items (key, product_id, quantity) VALUES {}", places.join(", "));
    transaction.execute(&insert_items, [Value::from(key)].into_iter().chain(values).collect()).await?;
    transaction.commit().await?;
    Ok(Attempt::Reserved(Reservation {
        key: key.clone(),
        order_id: order_id.clone(),
        items: items.clone(),
        status: Status::Held,
        expires_at,
    }))
}

/// Marks a key as called off, where there is no reservation with it yet.
pub async fn call_off(key: &str) -> Result<()> {
    let sql = "INSERT INTO reservations (key, order_id, status, expires_at) VALUES ($1, '', $2, 0)";
    db::execute(sql, params![key, Status::CalledOff]).await?;
    Ok(())
}

/// Sells what is held and not overdue.
pub async fn keep(reservation: &Reservation) -> Result<()> {
    let transaction = db::begin().await?;
    let change = "UPDATE reservations SET status = 'KEPT' WHERE key = $1 AND status = 'HELD' AND expires_at > $2";
    if transaction.execute(change, params![&reservation.key, millis(time::now())]).await? != 1 {
        return Err(Error::Lost);
    }
    stock::shift(&transaction, &reservation.items, Move::Sell).await?;
    Ok(transaction.commit().await?)
}

/// Gives back what is held, also where it is overdue, or what was kept.
pub async fn release(reservation: &Reservation) -> Result<()> {
    let (from, shift) = match reservation.status {
        Status::Kept => (Status::Kept, Move::TakeBack),
        _ => (Status::Held, Move::Return),
    };
    let transaction = db::begin().await?;
    let change = "UPDATE reservations SET status = 'RELEASED' WHERE key = $1 AND status = $2";
    if transaction.execute(change, params![&reservation.key, from]).await? != 1 {
        return Err(Error::Lost);
    }
    stock::shift(&transaction, &reservation.items, shift).await?;
    Ok(transaction.commit().await?)
}

/// Puts the items of reservations that are overdue back in stock, of those with this product or of any, and returns how many
/// there were: at most a hundred at a time. Those that somebody else ended meanwhile count too.
pub async fn expire_overdue(product: Option<&str>) -> Result<usize> {
    let now = millis(time::now());
    let keys: Vec<(String,)> = match product {
        Some(product) => {
            let sql = "SELECT reservations.key FROM reserved_items JOIN reservations ON reservations.key = reserved_items.key \
                       WHERE product_id = $1 AND status = 'HELD' AND expires_at <= $2 LIMIT $3";
            db::query(sql, params![product, now, OVERDUE_MAX]).await?
        }
        None => {
            let sql = "SELECT key FROM reservations WHERE status = 'HELD' AND expires_at <= $1 \
                       ORDER BY expires_at LIMIT $2";
            db::query(sql, params![now, OVERDUE_MAX]).await?
        }
    };
    for (key,) in &keys {
        let transaction = db::begin().await?;
        let change =
            "UPDATE reservations SET status = 'EXPIRED' WHERE key = $1 AND status = 'HELD' AND expires_at <= $2";
        if transaction.execute(change, params![key, now]).await? == 1 {
            let items = "SELECT product_id, quantity FROM reserved_items WHERE key = $1";
            let items = whole(transaction.query(items, params![key]).await?)?;
            stock::shift(&transaction, &items, Move::Return).await?;
            transaction.commit().await?;
        }
    }
    Ok(keys.len())
}

async fn insert(
    transaction: &Transaction,
    key: &str,
    order_id: &str,
    status: Status,
    expires_at: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO reservations (key, order_id, status, expires_at) VALUES ($1, $2, $3, $4)";
    transaction.execute(sql, params![key, order_id, status, millis(expires_at)]).await?;
    Ok(())
}

fn whole(items: Vec<(String, i64)>) -> db::Result<Items> {
    let quantity = |n: i64| u32::try_from(n).map_err(|_| db::Error::Invalid(format!("{n} is no quantity")));
    items.into_iter().map(|(id, n)| Ok((id, quantity(n)?))).collect()
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.unix_millis()).unwrap_or(i64::MAX)
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(u64::try_from(millis).unwrap_or_default())
}

// === impl Status ===

impl Status {
    const ALL: [Self; 5] = [Self::Held, Self::Kept, Self::Released, Self::Expired, Self::CalledOff];

    /// As the database knows it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "HELD",
            Self::Kept => "KEPT",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
            Self::CalledOff => "CALLED_OFF",
        }
    }
}

impl From<Status> for Value {
    fn from(status: Status) -> Self {
        status.as_str().into()
    }
}

impl FromValue for Status {
    fn from_value(value: Value) -> std::result::Result<Self, Value> {
        let text = String::from_value(value)?;
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(Value::Text(text))
    }
}
