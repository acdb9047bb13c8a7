//! What was ordered, and how far the order is.

mod neighbours;
mod new_order;
mod order;

use money::Money;
use new_order::NewOrder;
use order::{Change, Items, Order, Status};
use serde::{Deserialize, Serialize};
use wharf_sdk::{
    Created, Error, Json, Path, Query, Result, Router, db,
    events::{NewEvent, OutboxError},
    join, new_id, params, time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/users", "../../wit/shop/catalog", "../../wit/shop/orders"],
        world: "
            package shop:order;
            world order {
                import shop:users/users@0.1.0;
                import shop:catalog/catalog@0.1.0;
                export shop:orders/orders@0.1.0;
            }
        ",
    }
}
use wit::shop::{catalog::catalog, users::users};

wharf_sdk::service! {
    /// Takes orders, and brings them to their end.
    pub struct OrderService {
        routes: routes,
        migrations: [
            ("create orders", include_str!("../migrations/1-create-orders.sql")),
            ("create order keys", include_str!("../migrations/2-create-order-keys.sql")),
        ],
    }
}

wit::export!(OrderService with_types_in wit);

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
    /// Why, where a neighbour cancelled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The query of `GET /orders`: the newest orders of a user.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfUser {
    user_id: String,
    limit: Option<u32>,
}

async fn create_order(Json(new): Json<NewOrder>) -> Result<Created<Order>> {
    let order = made(new.validated()?).await?;
    save(&order, None).await?;
    Ok(Created(order))
}

/// The order that this becomes, at the prices of the catalogue.
async fn made(new: NewOrder) -> Result<Order> {
    let (user_exists, products) =
        join(users::user_exists(new.user_id.clone()), catalog::get_products(new.product_ids())).await;
    if !user_exists? {
        return Err(Error::bad_request("User not found"));
    }
    let (items, total) = new.priced(&products?)?;
    let now = time::now();
    Ok(Order {
        id: new_id(now),
        user_id: new.user_id,
        items,
        total,
        status: Status::Pending,
        created_at: now.to_string(),
    })
}

/// Writes an order, with the key that it is placed with, and tells of it.
async fn save(order: &Order, key: Option<&str>) -> Result<(), OutboxError> {
    let insert = db::statement(
        "INSERT INTO orders (id, user_id, items, total, status, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        params![&order.id, &order.user_id, order.items.as_json(), order.total, order.status, &order.created_at],
    );
    let mark =
        key.map(|key| db::statement("INSERT INTO order_keys (key, order_id) VALUES ($1, $2)", params![key, &order.id]));
    let statements = [insert].into_iter().chain(mark).collect();
    let created =
        OrderCreated { order_id: &order.id, user_id: &order.user_id, items: &order.items, total: order.total };
    let event = NewEvent::about("order.created", &order.id, &created).map_err(OutboxError::Publish)?;
    db::batch_and_publish(statements, vec![event]).await.map(drop)
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
    brought(&id, Change::Confirm).await.map(Json)
}

async fn cancel_order(Path(id): Path<String>) -> Result<Json<Order>> {
    brought(&id, Change::Cancel).await.map(Json)
}

/// What `bring_to` says, to a customer.
async fn brought(id: &str, change: Change<'_>) -> Result<Order> {
    match bring_to(id, change).await? {
        Some((order, true)) => Ok(order),
        Some((order, false)) => Err(order.status.refusal(change.target())),
        // 400 and not 404, because clients of these two routes know it so.
        None => Err(Error::bad_request("Order not found")),
    }
}

/// Changes an order's status and tells of it. Returns the order as it is then, and whether it is what was asked for: it was so
/// already, or has become so. None where there is no such order.
async fn bring_to(id: &str, change: Change<'_>) -> Result<Option<(Order, bool)>, OutboxError> {
    // Where another request changes the status in between, the order is looked at again. It goes one way and has three
    // statuses, so that is soon over.
    let target = change.target();
    loop {
        let Some(order) = find_order(id).await.map_err(OutboxError::Store)? else { return Ok(None) };
        if order.status == target || !change.can_follow(order.status) {
            let is_so = order.status == target;
            return Ok(Some((order, is_so)));
        }
        // Where it is another meanwhile it becomes NULL, which it may not be, and so nothing is done.
        let update = "UPDATE orders SET status = CASE status WHEN $1 THEN $2 END WHERE id = $3";
        let update = db::statement(update, params![order.status, target, id]);
        let changed = OrderChanged { order_id: id, user_id: &order.user_id, reason: change.reason() };
        let event = NewEvent::about(change.topic(), id, &changed).map_err(OutboxError::Publish)?;
        match db::batch_and_publish(vec![update], vec![event]).await {
            Ok(_) => return Ok(Some((Order { status: target, ..order }, true))),
            Err(OutboxError::Store(error)) if db::is_missing(&error) => {}
            Err(error) => return Err(error),
        }
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
