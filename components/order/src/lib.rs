//! What was ordered, and how far the order is.

mod new_order;
mod order;

use money::Money;
use new_order::NewOrder;
use order::{Items, Order, Status};
use serde::{Deserialize, Serialize};
use wharf_sdk::{Created, Error, Json, Path, Query, Result, Router, db, events::NewEvent, join, new_id, params, time};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/users", "../../wit/shop/catalog"],
        world: "
            package shop:order;
            world order {
                import shop:users/users@0.1.0;
                import shop:catalog/catalog@0.1.0;
            }
        ",
    }
}
use wit::shop::{catalog::catalog, users::users};

wharf_sdk::service! {
    /// Takes orders, and brings them to their end.
    pub struct OrderService {
        routes: routes,
        migrations: [("create orders", include_str!("../migrations/1-create-orders.sql"))],
    }
}

const LIST_MAX: u32 = 100;

fn routes() -> Router {
    Router::new()
        .post("/orders", create_order)
        .get("/orders", list_orders)
        .get("/orders/{id}", get_order)
        .post("/orders/{id}/confirm", confirm_order)
        .post("/orders/{id}/cancel", cancel_order)
}

/// The payload of `order.created`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderCreated<'a> {
    order_id: &'a str,
    user_id: &'a str,
    items: &'a Items,
    total: Money,
}

/// The payload of `order.confirmed` and `order.cancelled`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderChanged<'a> {
    order_id: &'a str,
    user_id: &'a str,
}

/// The query of `GET /orders`: the newest orders of a user.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfUser {
    user_id: String,
    limit: Option<u32>,
}

async fn create_order(Json(new): Json<NewOrder>) -> Result<Created<Order>> {
    let new = new.validated()?;
    let (user_exists, products) =
        join(users::user_exists(new.user_id.clone()), catalog::get_products(new.product_ids())).await;
    if !user_exists? {
        return Err(Error::bad_request("User not found"));
    }
    let (items, total) = new.priced(&products?)?;
    let now = time::now();
    let order = Order {
        id: new_id(now),
        user_id: new.user_id,
        items,
        total,
        status: Status::Pending,
        created_at: now.to_string(),
    };

    let insert = db::statement(
        "INSERT INTO orders (id, user_id, items, total, status, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        params![&order.id, &order.user_id, order.items.as_json(), order.total, order.status, &order.created_at],
    );
    let created =
        OrderCreated { order_id: &order.id, user_id: &order.user_id, items: &order.items, total: order.total };
    db::batch_and_publish(vec![insert], vec![NewEvent::about("order.created", &order.id, &created)?]).await?;
    Ok(Created(order))
}

async fn list_orders(Query(OfUser { user_id, limit }): Query<OfUser>) -> Result<Json<Vec<Order>>> {
    let limit = limit.unwrap_or(LIST_MAX);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(Error::bad_request("Invalid limit, expected 1 to 100"));
    }
    let orders = db::query(
        "SELECT id, user_id, items, total, status, created_at FROM orders \
         WHERE user_id = $1 ORDER BY id DESC LIMIT $2",
        params![user_id, limit],
    )
    .await?;
    Ok(Json(orders))
}

async fn get_order(Path(id): Path<String>) -> Result<Json<Order>> {
    find_order(&id).await?.map(Json).ok_or(Error::not_found("Order not found"))
}

async fn confirm_order(Path(id): Path<String>) -> Result<Json<Order>> {
    bring_to(&id, Status::Confirmed, "order.confirmed").await.map(Json)
}

async fn cancel_order(Path(id): Path<String>) -> Result<Json<Order>> {
    bring_to(&id, Status::Cancelled, "order.cancelled").await.map(Json)
}

/// Changes an order's status and tells of it, or returns the order as it is where it has that status already.
async fn bring_to(id: &str, status: Status, topic: &str) -> Result<Order> {
    // Where another request changes the status in between, the order is looked at again. No status can be left once
    // it is not `Pending`, so the second look is the last.
    loop {
        // 400 and not 404, because clients of these two routes know it so.
        let mut order = find_order(id).await?.ok_or(Error::bad_request("Order not found"))?;
        if !order.status.must_change_to(status)? {
            return Ok(order);
        }
        let transaction = db::begin().await?;
        let change = "UPDATE orders SET status = $1 WHERE id = $2 AND status = $3";
        if transaction.execute(change, params![status, id, order.status]).await? == 1 {
            let changed = OrderChanged { order_id: id, user_id: &order.user_id };
            transaction.publish(NewEvent::about(topic, id, &changed)?).await?;
            transaction.commit().await?;
            order.status = status;
            return Ok(order);
        }
        transaction.rollback().await?;
    }
}

async fn find_order(id: &str) -> db::Result<Option<Order>> {
    db::query_optional("SELECT id, user_id, items, total, status, created_at FROM orders WHERE id = $1", params![id])
        .await
}

impl From<users::LookupError> for Error {
    fn from(error: users::LookupError) -> Self {
        match error {
            users::LookupError::NotFound => Self::bad_request("User not found"),
            users::LookupError::Fault(fault) => fault.into(),
        }
    }
}

impl From<catalog::LookupError> for Error {
    fn from(error: catalog::LookupError) -> Self {
        match error {
            catalog::LookupError::NotFound(id) => Self::bad_request(format!("Product {id} not found")),
            catalog::LookupError::TooMany(most) => {
                Self::bad_request(format!("Too many items, expected at most {most}"))
            }
            catalog::LookupError::Fault(fault) => fault.into(),
        }
    }
}
