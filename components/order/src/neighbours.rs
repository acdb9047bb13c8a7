//! What neighbours call: orders by typed calls, each placed with a key. Keys are kept for as long as orders are, on purpose:
//! with one that was forgotten the order would be placed a second time.

use crate::{
    OrderService, bring_to, find_order, made,
    new_order::NewOrder,
    order::{Change, Order, Status},
    save,
    wit::exports::shop::orders::orders::{self, OrderError, Reference},
};
use wharf_sdk::{
    Error,
    db::{self, FromRow, Row},
    events::{OutboxError, PublishError},
    fault::{Fault, FaultKind},
    params,
};

const KEY_MAX: usize = 512;
const REASON_MAX: usize = 500;

/// How often an order is looked for anew where another call with its key comes first.
const LOOKS: u32 = 8;

impl orders::Guest for OrderService {
    async fn place(key: String, user_id: String, items: Vec<orders::Item>) -> Result<orders::Order, OrderError> {
        check_key(&key)?;
        let items = items.into_iter().map(|orders::Item { product_id, quantity }| (product_id, quantity));
        let wanted = NewOrder::new(user_id, items).validated()?;
        let error = match made(wanted.clone()).await {
            Ok(order) => match save(&order, Some(&key)).await {
                Ok(()) => return order_of(&order),
                Err(error) if came_first(&error) => error.into(),
                Err(error) => return Err(error.into()),
            },
            Err(error) => error.into(),
        };
        // Nearly all keys are new. One that is not is answered as it was, whatever the neighbours say by now.
        match Placed::find(&key).await? {
            Some(placed) => placed.again(&wanted),
            None => Err(error),
        }
    }

    async fn get(id: String) -> Result<orders::Order, OrderError> {
        order_of(&find_order(&id).await?.ok_or(OrderError::NotFound)?)
    }

    async fn confirm(id: String) -> Result<orders::Order, OrderError> {
        changed(&id, Change::Confirm).await
    }

    async fn cancel(order: Reference, reason: String) -> Result<Option<orders::Order>, OrderError> {
        if reason.is_empty() || reason.chars().count() > REASON_MAX || reason.chars().any(char::is_control) {
            return Err(OrderError::Invalid(format!("reason: expected 1 to {REASON_MAX} characters of plain text")));
        }
        let change = Change::TakeBack(&reason);
        let key = match order {
            Reference::Id(id) => return changed(&id, change).await.map(Some),
            Reference::Key(key) => key,
        };
        check_key(&key)?;
        for _ in 0..LOOKS {
            match Placed::find(&key).await? {
                Some(Placed::As(order)) => return changed(&order.id, change).await.map(Some),
                Some(Placed::CalledOff) => return Ok(None),
                None => {}
            }
            let bar = db::execute("INSERT INTO order_keys (key, order_id) VALUES ($1, NULL)", params![&key]).await;
            match bar.map_err(OutboxError::Store) {
                Ok(_) => return Ok(None),
                Err(error) if came_first(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(fault(FaultKind::Overloaded, "too many calls with one key at a time"))
    }
}

/// What became of a key.
enum Placed {
    As(Order),
    /// It was cancelled before it came.
    CalledOff,
}

// === impl Placed ===

impl Placed {
    async fn find(key: &str) -> Result<Option<Self>, OrderError> {
        let found = db::query_optional(
            "SELECT id, user_id, items, total, status, created_at \
             FROM order_keys LEFT JOIN orders ON orders.id = order_keys.order_id WHERE key = $1",
            params![key],
        );
        Ok(found.await?)
    }

    /// The answer to who places an order with this key again.
    fn again(self, wanted: &NewOrder) -> Result<orders::Order, OrderError> {
        let Self::As(order) = self else { return Err(OrderError::CalledOff) };
        if order.user_id != wanted.user_id || !wanted.is_of(&order.items.to_list()?) {
            return Err(OrderError::Conflict);
        }
        match order.status {
            Status::Cancelled => Err(OrderError::CalledOff),
            Status::Pending | Status::Confirmed => order_of(&order),
        }
    }
}

impl FromRow for Placed {
    fn from_row(row: &mut Row<'_>) -> db::Result<Self> {
        Ok(if row.is_null("id")? { Self::CalledOff } else { Self::As(Order::from_row(row)?) })
    }
}

async fn changed(id: &str, change: Change<'_>) -> Result<orders::Order, OrderError> {
    match bring_to(id, change).await? {
        Some((order, true)) => order_of(&order),
        Some((order, false)) => Err(OrderError::NotPossible(order.status.into())),
        None => Err(OrderError::NotFound),
    }
}

/// Whether it was not written because another call with the key came first.
fn came_first(error: &OutboxError) -> bool {
    match error {
        OutboxError::Store(error) => db::is_duplicate(error) || matches!(error, db::Error::Busy(_)),
        OutboxError::Publish(_) => false,
    }
}

fn check_key(key: &str) -> Result<(), OrderError> {
    if !key.is_empty() && key.len() <= KEY_MAX && key.bytes().all(|c| c.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(OrderError::Invalid(format!("the key is not one: expected 1 to {KEY_MAX} visible characters of ASCII")))
    }
}

fn fault(kind: FaultKind, message: impl Into<String>) -> OrderError {
    OrderError::Fault(Fault { kind, message: message.into(), retry_after_ms: None })
}

/// An order as neighbours see it.
fn order_of(order: &Order) -> Result<orders::Order, OrderError> {
    let items = order.items.to_list()?.into_iter().map(|item| orders::Line {
        product_id: item.product_id.into_owned(),
        quantity: item.quantity,
        price: item.price.minor(),
    });
    Ok(orders::Order {
        id: order.id.clone(),
        user_id: order.user_id.clone(),
        items: items.collect(),
        total: order.total.minor(),
        status: order.status.into(),
        created_at: order.created_at.clone(),
    })
}

// === impl orders ===

impl From<Status> for orders::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Confirmed => Self::Confirmed,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// What a customer would be told is told to neighbours; where this service or one that it needs failed, it is a fault.
impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        match error.status() {
            400..500 => Self::Refused(error.message().to_owned()),
            503 => fault(FaultKind::Unreachable, error.message()),
            _ => fault(FaultKind::Trapped, error.message()),
        }
    }
}

/// The database is this service's own affair: to a neighbour it means that it could not be asked.
impl From<db::Error> for OrderError {
    fn from(error: db::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<OutboxError> for OrderError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Store(error) => error.into(),
            OutboxError::Publish(PublishError::Fault(fault)) => Self::Fault(fault),
            error @ OutboxError::Publish(_) => Error::from(error).into(),
        }
    }
}
