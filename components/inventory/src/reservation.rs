//! Reservations, from being made to their end.
//!
//! Each change is one transaction: the reservation's status, the counts of its products and the events. It begins with the
//! row of the reservation where there is one, so that of two changes of one reservation the second sees what the first did.
//!
//! Those that have ended are kept, on purpose: what was sold is the sum of those that were kept, which is how `GET /inventory`
//! proves the counts, and a key that was forgotten would take the goods a second time when its call comes again.

use crate::{
    request::{Items, Wanted},
    stock::{self, Move},
    store::{Error, Result},
};
use wharf_sdk::{
    db::{self, Statement, Value},
    from_row, params, text_values,
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

text_values!(Status {
    Held = "HELD",
    Kept = "KEPT",
    Released = "RELEASED",
    Expired = "EXPIRED",
    CalledOff = "CALLED_OFF",
});

/// A reservation.
#[derive(Debug, PartialEq)]
pub struct Reservation {
    pub key: String,
    pub order_id: String,
    pub items: Items,
    pub status: Status,
    pub expires_at: Timestamp,
}

/// A reservation with one of its items. One that was called off has none.
struct Row {
    order_id: String,
    status: Status,
    expires_at: i64,
    product_id: Option<String>,
    quantity: Option<i64>,
}

from_row!(Row { order_id, status, expires_at, product_id, quantity });

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
    let rows: Vec<Row> = db::query(
        "SELECT order_id, status, expires_at, product_id, quantity \
         FROM reservations LEFT JOIN reserved_items ON reserved_items.key = reservations.key WHERE reservations.key = $1",
        params![key],
    )
    .await?;
    let mut items = Vec::with_capacity(rows.len());
    let mut found = None;
    for Row { order_id, status, expires_at, product_id, quantity } in rows {
        items.extend(product_id.zip(quantity));
        found = Some((order_id, status, timestamp(expires_at)));
    }
    let Some((order_id, status, expires_at)) = found else { return Ok(None) };
    let status = if status == Status::Held && expires_at <= time::now() { Status::Expired } else { status };
    Ok(Some(Reservation { key: key.to_owned(), order_id, items: whole(items)?, status, expires_at }))
}

/// Reserves all that is wanted, or nothing.
///
/// Nearly always the key is new, there is enough of all, and something is left of it, so that there is nothing to tell: that is
/// one write. Where it fails, it is because one of these is not so.
pub async fn attempt(wanted: &Wanted) -> Result<Attempt> {
    let Wanted { key, order_id, items, ttl } = wanted;
    let (order_id, items) = (order_id.clone(), items.clone());
    let reservation =
        Reservation { key: key.clone(), order_id, items, status: Status::Held, expires_at: time::now() + *ttl };
    let (made, its_items) = (reservation.insert(), reservation.insert_items());
    let all = [made].into_iter().chain(stock::reserving(&reservation.items)).chain([its_items]);
    match db::batch(all.collect()).await {
        Ok(_) => Ok(Attempt::Reserved(reservation)),
        Err(error) if db::is_duplicate(&error) => find(key).await?.map(Attempt::Found).ok_or(Error::Lost),
        Err(db::Error::Constraint(_)) => attempt_and_tell(reservation).await,
        Err(error) => Err(error.into()),
    }
}

/// The same, where there is too little of something or it runs out.
async fn attempt_and_tell(reservation: Reservation) -> Result<Attempt> {
    let transaction = db::begin().await?;
    let Statement { sql, params } = reservation.insert();
    transaction.execute(&sql, params).await?;
    if let Some(product) = stock::shift(&transaction, &reservation.items, Move::Reserve).await? {
        transaction.rollback().await?;
        return Ok(Attempt::TooLittle(product));
    }
    let Statement { sql, params } = reservation.insert_items();
    transaction.execute(&sql, params).await?;
    transaction.commit().await?;
    Ok(Attempt::Reserved(reservation))
}

/// Marks a key as called off, where there is no reservation with it yet.
pub async fn call_off(key: &str) -> Result<()> {
    let sql = "INSERT INTO reservations (key, order_id, status, expires_at) VALUES ($1, '', $2, 0)";
    db::execute(sql, params![key, Status::CalledOff]).await?;
    Ok(())
}

/// Sells what is held and not overdue.
pub async fn keep(reservation: &Reservation) -> Result<()> {
    // Of another status it becomes NULL, which it may not be, and so nothing is done.
    let change = "UPDATE reservations SET status = CASE WHEN status = 'HELD' AND expires_at > $2 THEN 'KEPT' END \
                  WHERE key = $1";
    let change = db::statement(change, params![&reservation.key, millis(time::now())]);
    match db::batch([change].into_iter().chain(stock::selling(&reservation.items)).collect()).await {
        Ok(_) => Ok(()),
        Err(error) if db::is_missing(&error) => Err(Error::Lost),
        Err(error) => Err(error.into()),
    }
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

// === impl Reservation ===

impl Reservation {
    fn insert(&self) -> Statement {
        let sql = "INSERT INTO reservations (key, order_id, status, expires_at) VALUES ($1, $2, $3, $4)";
        db::statement(sql, params![&self.key, &self.order_id, self.status, millis(self.expires_at)])
    }

    fn insert_items(&self) -> Statement {
        let places = (0..self.items.len()).map(|n| format!("($1, ${}, ${})", 2 * n + 2, 2 * n + 3));
        let places = places.collect::<Vec<_>>().join(", ");
        let values = self.items.iter().flat_map(|(id, quantity)| [Value::from(id), Value::from(*quantity)]);
        let params = [Value::from(&self.key)].into_iter().chain(values).collect();
        db::statement(&format!("INSERT INTO reserved_items (key, product_id, quantity) VALUES {places}"), params)
    }
}
