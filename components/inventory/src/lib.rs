//! What is in stock, and for whom it is set aside.

mod audit;
mod request;
mod reservation;
mod stock;
mod store;

use request::{Items, Quantity, Wanted, check_key, check_product};
use reservation::{Attempt, Reservation, Status};
use std::time::Duration;
use stock::Stock;
use wharf_sdk::{
    Error, Json, Path, Result, Router, db,
    events::{Event, OutboxError, PublishError, Verdict},
    fault::{Fault, FaultKind},
    time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/inventory"],
        world: "package shop:stock; world stock { export shop:inventory/inventory@0.1.0; }",
    }
}
use wit::exports::shop::inventory::inventory::{self, ReleaseOutcome, ReservationError, Shortage};

wharf_sdk::service! {
    /// Counts what there is, and sets it aside for orders.
    pub struct InventoryService {
        routes: routes,
        events: on_event,
        migrations: [("create stock", include_str!("../migrations/1-create-stock.sql"))],
    }
}

wit::export!(InventoryService with_types_in wit);

/// How often a change is tried that others come before: on PostgreSQL, of those who want one product at the same time all
/// but one begin again.
const TRIES: u32 = 50;

/// For how long the clock's event clears up: well below the deadline of a call. What is left then is for the next.
const SWEEP: Duration = Duration::from_secs(3);

fn routes() -> Router {
    Router::new()
        .get("/inventory", audit::get_totals)
        .get("/inventory/{productId}", get_stock)
        .put("/inventory/{productId}", set_stock)
}

async fn get_stock(Path(id): Path<String>) -> Result<Json<Stock>> {
    expire_overdue(Some(&id)).await?;
    stock::find(&id).await?.map(Json).ok_or(Error::not_found("Product not in the inventory"))
}

/// Says how much of a product there is that nobody has reserved: after a delivery, or a count.
async fn set_stock(Path(id): Path<String>, Json(quantity): Json<Quantity>) -> Result<Json<Stock>> {
    check_product(&id)?;
    let quantity = quantity.validated()?;
    again(async || {
        let transaction = db::begin().await?;
        stock::set(&transaction, &id, quantity).await?;
        Ok(transaction.commit().await?)
    })
    .await?;
    stock::find(&id).await?.map(Json).ok_or(Error::not_found("Product not in the inventory"))
}

/// The clock says that it is time to look for reservations that are overdue. Whoever wants their items does not wait for it.
async fn on_event(event: Event) -> Verdict {
    let end = time::now() + SWEEP;
    while time::now() < end {
        match expire_overdue(None).await {
            Ok(0) => return Verdict::Ack,
            Ok(_) => {}
            Err(error) => {
                eprintln!("{} {}: {error}", event.topic, event.id);
                return Verdict::Retry(None);
            }
        }
    }
    Verdict::Ack
}

async fn expire_overdue(product: Option<&str>) -> Result<usize, OutboxError> {
    again(async || reservation::expire_overdue(product).await).await
}

/// Does it again as long as others come before.
async fn again<T>(change: impl AsyncFn() -> store::Result<T>) -> Result<T, OutboxError> {
    for _ in 0..TRIES {
        match change().await {
            Err(store::Error::Lost) => {}
            Err(store::Error::Failed(error)) => return Err(error),
            Ok(value) => return Ok(value),
        }
    }
    Err(crowded())
}

fn crowded() -> OutboxError {
    OutboxError::Store(db::Error::Busy("too many want the same at a time".to_owned()))
}

/// What neighbours call.
impl inventory::Guest for InventoryService {
    async fn reserve(
        key: String,
        order_id: String,
        items: Vec<inventory::Item>,
        ttl_ms: Option<u64>,
    ) -> Result<inventory::Reservation, ReservationError> {
        let items = items.into_iter().map(|inventory::Item { product_id, quantity }| (product_id, quantity));
        let wanted = Wanted::new(key, order_id, items, ttl_ms).map_err(ReservationError::Invalid)?;
        for _ in 0..TRIES {
            match again(async || reservation::attempt(&wanted).await).await? {
                Attempt::Reserved(reservation) => return Ok(reservation.into()),
                Attempt::Found(reservation) => return found(reservation, &wanted),
                Attempt::TooLittle(product) => {
                    if expire_overdue(Some(&product)).await? > 0 {
                        continue;
                    }
                    let shortages = shortages(&wanted.items).await?;
                    // None where some of it came back meanwhile.
                    if !shortages.is_empty() {
                        return Err(ReservationError::Shortage(shortages));
                    }
                }
            }
        }
        Err(crowded().into())
    }

    async fn keep(key: String) -> Result<inventory::Reservation, ReservationError> {
        check_key(&key).map_err(ReservationError::Invalid)?;
        again(async || {
            let Some(mut reservation) = reservation::find(&key).await? else {
                return Ok(Err(ReservationError::NotFound));
            };
            if reservation.status == Status::Held {
                reservation::keep(&reservation).await?;
                reservation.status = Status::Kept;
            }
            Ok(standing(reservation))
        })
        .await?
    }

    async fn release(key: String) -> Result<ReleaseOutcome, ReservationError> {
        check_key(&key).map_err(ReservationError::Invalid)?;
        let outcome = again(async || {
            let Some(reservation) = reservation::find(&key).await? else {
                reservation::call_off(&key).await?;
                return Ok(ReleaseOutcome::Nothing);
            };
            match reservation.status {
                Status::Held | Status::Kept => {
                    reservation::release(&reservation).await?;
                    Ok(ReleaseOutcome::Released)
                }
                Status::Released | Status::Expired | Status::CalledOff => Ok(ReleaseOutcome::Nothing),
            }
        })
        .await?;
        Ok(outcome)
    }
}

/// The answer to who reserves with a key that there is a reservation with.
fn found(reservation: Reservation, wanted: &Wanted) -> Result<inventory::Reservation, ReservationError> {
    let is_same = reservation.order_id == wanted.order_id && reservation.items == wanted.items;
    if is_same || reservation.status == Status::CalledOff {
        standing(reservation)
    } else {
        Err(ReservationError::Conflict)
    }
}

/// A reservation that stands, or why it does not.
fn standing(reservation: Reservation) -> Result<inventory::Reservation, ReservationError> {
    match reservation.status {
        Status::Held | Status::Kept => Ok(reservation.into()),
        Status::Expired => Err(ReservationError::Expired),
        Status::Released | Status::CalledOff => Err(ReservationError::CalledOff),
    }
}

/// The items of which there is too little.
async fn shortages(items: &Items) -> Result<Vec<Shortage>, ReservationError> {
    let mut shortages = Vec::new();
    for (id, &wanted) in items {
        let found = stock::find(id).await.map_err(OutboxError::Store)?;
        let available = found.map_or(0, |stock| u64::try_from(stock.available).unwrap_or_default());
        if available < wanted.into() {
            shortages.push(Shortage { product_id: id.clone(), wanted, available });
        }
    }
    Ok(shortages)
}

// === impl inventory ===

impl From<Reservation> for inventory::Reservation {
    fn from(Reservation { key, order_id, items, status, expires_at }: Reservation) -> Self {
        let items = items.into_iter().map(|(product_id, quantity)| inventory::Item { product_id, quantity }).collect();
        let status = if status == Status::Kept { inventory::Status::Kept } else { inventory::Status::Held };
        Self { key, order_id, items, status, expires_at: expires_at.to_string() }
    }
}

/// The database is this service's own affair: to a neighbour it means that it could not be asked.
impl From<OutboxError> for ReservationError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Store(error) => Self::Fault(error.into()),
            OutboxError::Publish(PublishError::Fault(fault)) => Self::Fault(fault),
            OutboxError::Publish(error) => {
                eprintln!("publish: {error}");
                let message = "the inventory service is at fault".to_owned();
                Self::Fault(Fault { kind: FaultKind::Trapped, message, retry_after_ms: None })
            }
        }
    }
}
