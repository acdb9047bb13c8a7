//! From what a customer wants to the confirmed order, or to nothing at all.
//!
//! A checkout is a saga: its steps are in `steps`, and this is the way to them by HTTP. The saga's id is the checkout's own: the
//! client's `Idempotency-Key` where it sends one, so that asking twice is checking out once.

mod request;
mod steps;

use money::Money;
use request::{Asked, NewCheckout};
use serde::Serialize;
use steps::Checkout;
use wharf_sdk::{
    Accepted, Error, Json, Path, Respond, Response, Result, Router, new_id,
    saga::{self, Refused, Snapshot, Status},
    time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/orders", "../../wit/shop/payments", "../../wit/shop/inventory"],
        world: "
            package shop:checkout;
            world checkout {
                import shop:orders/orders@0.1.0;
                import shop:payments/payments@0.1.0;
                import shop:inventory/inventory@0.1.0;
            }
        ",
    }
}

wharf_sdk::service! {
    /// Brings orders, payments and stock together.
    pub struct CheckoutService {
        routes: routes,
        sagas: [steps::checkout],
    }
}

fn routes() -> Router {
    Router::new().post("/checkout", check_out).get("/checkout/{id}", get_checkout)
}

/// A checkout, as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    id: String,
    status: &'static str,
    user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Money>,
    /// Why it came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

/// Begins a checkout: 202 and where it is to be seen, or 200 and how it ended, where the client waits for that long.
async fn check_out(Asked { key, wait }: Asked, Json(new): Json<NewCheckout>) -> Result<Response> {
    let id = key.unwrap_or_else(|| new_id(time::now()));
    let begun = saga::start(steps::NAME, &id, &Checkout::from(new.validated()?)).await.map_err(refused)?;
    let snapshot = match wait {
        Some(wait) if !begun.is_over() => saga::wait(steps::NAME, &id, wait).await.map_err(refused)?,
        _ => begun,
    };
    // Relative to what was asked for, since it is not known here under which path the gateway has it.
    let location = format!("checkout/{id}");
    let is_over = snapshot.is_over();
    let view = View::of(id, snapshot)?;
    let response = if is_over { Json(view).respond() } else { Accepted(view).respond() };
    let response = response.with_header("location", location);
    Ok(match wait {
        Some(wait) => response.with_header("preference-applied", format!("wait={}", wait.as_secs())),
        None => response,
    })
}

async fn get_checkout(Path(id): Path<String>) -> Result<Json<View>> {
    let snapshot = saga::get(steps::NAME, &id).await.map_err(refused)?;
    View::of(id, snapshot).map(Json)
}

/// What a client learns of a saga that can't be had.
fn refused(refused: Refused) -> Error {
    match refused {
        Refused::NotFound(_) | Refused::Invalid(_) => Error::not_found("Checkout not found"),
        Refused::Conflict => Error::conflict("This Idempotency-Key was used for another checkout"),
        Refused::Denied(reason) => Error::internal(reason),
        Refused::Fault(fault) => fault.into(),
    }
}

// === impl View ===

impl View {
    fn of(id: String, snapshot: Snapshot) -> Result<Self> {
        let Checkout { user_id, order_id, payment_id, total, .. } = snapshot.state().map_err(Error::internal)?;
        let status = match snapshot.status {
            Status::Running => "RUNNING",
            Status::Compensating => "COMPENSATING",
            Status::Completed => "COMPLETED",
            Status::Compensated => "COMPENSATED",
        };
        let Snapshot { reason, started_at: created_at, ended_at, .. } = snapshot;
        let total = total.and_then(Money::from_minor);
        Ok(Self { id, status, user_id, order_id, payment_id, total, reason, created_at, ended_at })
    }
}
