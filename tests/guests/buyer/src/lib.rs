//! Calls the typed interfaces of the shop: `shop:payments`, `shop:inventory` and `shop:orders`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /authorise?key=…&order=…&user=…&amount=…&method=…` | `authorised ID` |
//! | `GET /capture?key=…&payment=…` | `captured ID` |
//! | `GET /refund?key=…&payment=…`, `GET /refund?key=…&authorisation=…` | `refunded ID`, `voided ID` or `nothing` |
//! | `GET /reserve?key=…&order=…&items=pen:2,ink:1&ttl=…` | `held KEY` |
//! | `GET /keep?key=…` | `kept KEY` |
//! | `GET /release?key=…` | `released` or `nothing` |
//! | `GET /place?key=…&user=…&items=pen:2` | `pending ID TOTAL` |
//! | `GET /order?id=…`, `GET /confirm?id=…` | `confirmed ID TOTAL` |
//! | `GET /cancel?id=…&reason=…`, `GET /cancel?key=…&reason=…` | `cancelled ID TOTAL` or `nothing` |
//!
//! An error is 400 with its name and, after a blank, what it says.

use std::fmt::Debug;
use wasip3::http::types::{ErrorCode, Request, Response};

mod wit {
    wit_bindgen::generate!({
        path: [
            "../../../wit/wharf/platform",
            "../../../wit/shop/payments",
            "../../../wit/shop/inventory",
            "../../../wit/shop/orders",
        ],
        inline: "
            package probe:buyer;
            world buyer {
                import shop:payments/payments@0.1.0;
                import shop:inventory/inventory@0.1.0;
                import shop:orders/orders@0.1.0;
            }
        ",
        world: "probe:buyer/buyer",
        generate_all,
    });
}
use wit::shop::{
    inventory::inventory::{self, ReservationError},
    orders::orders::{self, OrderError, Reference},
    payments::payments::{self, Charge, PaymentError, RefundOutcome, Refundable},
};

wasip3::http::service::export!(Buyer);
struct Buyer;

type Said = Result<String, String>;

impl wasip3::exports::http::handler::Guest for Buyer {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let param = |name| reply::param(&query, name).to_owned();
        let said = match path.as_str() {
            "/authorise" => authorise(param).await,
            "/capture" => payment(payments::capture(param("key"), param("payment")).await),
            "/refund" => refund(param).await,
            "/reserve" => {
                let items = inventory_items(&param("items"));
                reservation(inventory::reserve(param("key"), param("order"), items, param("ttl").parse().ok()).await)
            }
            "/keep" => reservation(inventory::keep(param("key")).await),
            "/release" => inventory::release(param("key")).await.map(|outcome| word(&outcome)).map_err(no_reservation),
            "/place" => order(orders::place(param("key"), param("user"), order_items(&param("items"))).await),
            "/order" => order(orders::get(param("id")).await),
            "/confirm" => order(orders::confirm(param("id")).await),
            "/cancel" => cancel(param).await,
            _ => Ok("alive".to_owned()),
        };
        match said {
            Ok(said) => reply::text(200, said),
            Err(said) => reply::text(400, said),
        }
    }
}

async fn authorise(param: impl Fn(&'static str) -> String) -> Said {
    let method = Some(param("method")).filter(|method| !method.is_empty());
    let amount = param("amount").parse().unwrap_or_default();
    let charge = Charge { order_id: param("order"), user_id: param("user"), amount, method };
    payment(payments::authorise(param("key"), charge).await)
}

async fn refund(param: impl Fn(&'static str) -> String) -> Said {
    let refundable = match param("authorisation") {
        none if none.is_empty() => Refundable::Payment(param("payment")),
        key => Refundable::Authorisation(key),
    };
    match payments::refund(param("key"), refundable).await.map_err(no_payment)? {
        RefundOutcome::Refunded(payment) => Ok(format!("refunded {}", payment.id)),
        RefundOutcome::Voided(payment) => Ok(format!("voided {}", payment.id)),
        RefundOutcome::Nothing => Ok("nothing".to_owned()),
    }
}

async fn cancel(param: impl Fn(&'static str) -> String) -> Said {
    let reference = match param("key") {
        none if none.is_empty() => Reference::Id(param("id")),
        key => Reference::Key(key),
    };
    match orders::cancel(reference, param("reason")).await {
        Ok(None) => Ok("nothing".to_owned()),
        Ok(Some(cancelled)) => order(Ok(cancelled)),
        Err(error) => order(Err(error)),
    }
}

fn payment(result: Result<payments::Payment, PaymentError>) -> Said {
    result.map(|payment| format!("{} {}", word(&payment.status), payment.id)).map_err(no_payment)
}

fn reservation(result: Result<inventory::Reservation, ReservationError>) -> Said {
    result.map(|reservation| format!("{} {}", word(&reservation.status), reservation.key)).map_err(no_reservation)
}

fn order(result: Result<orders::Order, OrderError>) -> Said {
    let placed = result.map_err(|error| match error {
        OrderError::Refused(reason) => format!("refused {reason}"),
        OrderError::NotFound => "not-found".to_owned(),
        OrderError::NotPossible(status) => format!("not-possible {}", word(&status)),
        OrderError::CalledOff => "called-off".to_owned(),
        OrderError::Conflict => "conflict".to_owned(),
        OrderError::Invalid(reason) => format!("invalid {reason}"),
        OrderError::Fault(fault) => format!("fault {fault:?}"),
    })?;
    Ok(format!("{} {} {}", word(&placed.status), placed.id, placed.total))
}

fn no_payment(error: PaymentError) -> String {
    match error {
        PaymentError::Declined(reason) => format!("declined {reason}"),
        PaymentError::NotFound => "not-found".to_owned(),
        PaymentError::NotPossible(status) => format!("not-possible {}", word(&status)),
        PaymentError::CalledOff => "called-off".to_owned(),
        PaymentError::Conflict => "conflict".to_owned(),
        PaymentError::Invalid(reason) => format!("invalid {reason}"),
        PaymentError::Fault(fault) => format!("fault {fault:?}"),
    }
}

fn no_reservation(error: ReservationError) -> String {
    match error {
        ReservationError::Shortage(shortages) => {
            let of = shortages.iter().map(|it| format!(" {}:{}/{}", it.product_id, it.available, it.wanted));
            format!("shortage{}", of.collect::<String>())
        }
        ReservationError::NotFound => "not-found".to_owned(),
        ReservationError::Expired => "expired".to_owned(),
        ReservationError::CalledOff => "called-off".to_owned(),
        ReservationError::Conflict => "conflict".to_owned(),
        ReservationError::Invalid(reason) => format!("invalid {reason}"),
        ReservationError::Fault(fault) => format!("fault {fault:?}"),
    }
}

/// `pen:2,ink:1`.
fn pairs(items: &str) -> impl Iterator<Item = (String, u32)> {
    items.split(',').filter_map(|item| {
        let (id, quantity) = item.split_once(':')?;
        Some((id.to_owned(), quantity.parse().ok()?))
    })
}

fn inventory_items(items: &str) -> Vec<inventory::Item> {
    pairs(items).map(|(product_id, quantity)| inventory::Item { product_id, quantity }).collect()
}

fn order_items(items: &str) -> Vec<orders::Item> {
    pairs(items).map(|(product_id, quantity)| orders::Item { product_id, quantity }).collect()
}

/// The name of a case, as `Status::Held` shows it, in small letters.
fn word(case: &impl Debug) -> String {
    format!("{case:?}").rsplit("::").next().unwrap_or_default().to_lowercase()
}
