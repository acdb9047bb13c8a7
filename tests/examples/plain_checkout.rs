//! A checkout without everything that Wharf is for: what `tests/load/checkouts.sh` puts beside it.
//!
//! One process, one program, no sandboxes, nothing written down: users, catalogue, orders, payments and stock are maps in
//! memory, a checkout is one function, and what fails is undone in its `else`. It takes and gives the same JSON over the same
//! HTTP, and keeps the same books: a ledger that adds up, and stock that is reserved before an order is confirmed.
//!
//! `plain_checkout [PORT]` has a user `u-1` and the products `p-1` to `p-20` of the load runs' template.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::TcpListener;

#[derive(Default)]
struct Shop {
    users: Mutex<HashMap<String, String>>,
    prices: Mutex<HashMap<String, i64>>,
    orders: Mutex<HashMap<u64, Order>>,
    payments: Mutex<HashMap<u64, i64>>,
    ledger: Mutex<Vec<(&'static str, i64)>>,
    stock: Mutex<HashMap<String, (i64, i64)>>,
    next: AtomicU64,
}

struct Order {
    user: String,
    total: i64,
    status: &'static str,
}

// === impl Shop ===

impl Shop {
    fn filled() -> Self {
        let shop = Self::default();
        locked(&shop.users).insert("u-1".into(), "ada@example.org".into());
        for k in 1..=20 {
            locked(&shop.prices).insert(format!("p-{k}"), k * 100 + 50);
            locked(&shop.stock).insert(format!("p-{k}"), (1_000_000_000, 0));
        }
        shop
    }

    /// The whole checkout: the order, its payment, its goods; or why not, with nothing left of it.
    fn check_out(&self, body: &[u8]) -> Result<Value, &'static str> {
        let body: Value = serde_json::from_slice(body).map_err(|_| "Invalid JSON")?;
        let user = body["userId"].as_str().ok_or("Invalid userId")?;
        if !locked(&self.users).contains_key(user) {
            return Err("User not found");
        }
        let mut items = Vec::new();
        let mut total = 0;
        for item in body["items"].as_array().ok_or("Invalid items")? {
            let product = item["productId"].as_str().ok_or("Invalid productId")?;
            let quantity =
                item["quantity"].as_i64().filter(|n| (1..=1_000_000).contains(n)).ok_or("Invalid quantity")?;
            total += locked(&self.prices).get(product).ok_or("Product not found")? * quantity;
            items.push((product, quantity));
        }

        let id = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.orders).insert(id, Order { user: user.into(), total, status: "PENDING" });
        locked(&self.payments).insert(id, total);
        locked(&self.ledger).extend([("customers", -total), ("shop", total)]);
        if !self.reserve(&items) {
            locked(&self.ledger).extend([("customers", total), ("shop", -total)]);
            locked(&self.payments).remove(&id);
            if let Some(order) = locked(&self.orders).get_mut(&id) {
                order.status = "CANCELLED";
            }
            return Err("Not enough in stock");
        }
        let mut orders = locked(&self.orders);
        let order = orders.get_mut(&id).ok_or("Order not found")?;
        order.status = "CONFIRMED";
        Ok(json!({"id": id.to_string(), "status": "COMPLETED", "orderId": id.to_string(), "userId": order.user,
            "total": order.total as f64 / 100.0}))
    }

    /// All of them or none.
    fn reserve(&self, items: &[(&str, i64)]) -> bool {
        let mut stock = locked(&self.stock);
        if items.iter().any(|(product, quantity)| stock.get(*product).is_none_or(|(free, _)| free < quantity)) {
            return false;
        }
        for (product, quantity) in items {
            if let Some((free, reserved)) = stock.get_mut(*product) {
                *free -= quantity;
                *reserved += quantity;
            }
        }
        true
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(shop: &Shop, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = if (request.method(), request.uri().path()) == (&Method::POST, "/api/checkout") {
        match request.into_body().collect().await {
            Ok(body) => match shop.check_out(&body.to_bytes()) {
                Ok(done) => (StatusCode::OK, done),
                Err(error) => (StatusCode::BAD_REQUEST, json!({"error": error})),
            },
            Err(_) => (StatusCode::BAD_REQUEST, json!({"error": "Broken body"})),
        }
    } else {
        (StatusCode::NOT_FOUND, json!({"error": "Not found"}))
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let shop = Arc::new(Shop::filled());
    eprintln!("Ready");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let shop = shop.clone();
        tokio::spawn(async move {
            let serve = service_fn(|request| async { Ok::<_, std::convert::Infallible>(answer(&shop, request).await) });
            // A client that goes away is none of its business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}
