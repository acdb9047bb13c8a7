//! What the shop sells, and for how much.

mod input;

use input::{Change, NewProduct, Page};
use money::Money;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use wharf_sdk::{
    Created, Error, Json, Path, Query, Result, Router, db,
    events::{Event, Verdict},
    fault::Fault,
    from_row, new_id, params, time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/catalog"],
        world: "package shop:product; world product { export shop:catalog/catalog@0.1.0; }",
    }
}
use wit::exports::shop::catalog::catalog::{self, LookupError};

wharf_sdk::service! {
    /// Keeps the catalogue.
    pub struct ProductService {
        routes: routes,
        events: on_event,
        migrations: [
            ("create products", include_str!("../migrations/1-create-products.sql")),
            ("create known stock", include_str!("../migrations/2-create-known-stock.sql")),
        ],
    }
}

wit::export!(ProductService with_types_in wit);

/// How many products one typed call may ask for.
const LOOKUP_MAX: usize = 100;

fn routes() -> Router {
    Router::new()
        .post("/products", create_product)
        .get("/products", list_products)
        .get("/products/{id}", get_product)
        .patch("/products/{id}", change_product)
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    id: String,
    name: String,
    price: Money,
    in_stock: bool,
}

from_row!(Product { id, name, price, in_stock });

/// The payload of `stock.changed`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StockChanged {
    product_id: String,
    available: i64,
}

/// The inventory says what is in stock. Of a product that it has never told of, what was said here counts.
async fn on_event(event: Event) -> Verdict {
    let StockChanged { product_id, available } = match event.payload() {
        Ok(changed) => changed,
        Err(verdict) => return verdict,
    };
    let in_stock = available > 0;
    let remember = db::statement(
        "INSERT INTO known_stock (product_id, in_stock) VALUES ($1, $2) \
         ON CONFLICT (product_id) DO UPDATE SET in_stock = excluded.in_stock",
        params![&product_id, in_stock],
    );
    let follow = db::statement("UPDATE products SET in_stock = $1 WHERE id = $2", params![in_stock, &product_id]);
    match db::batch(vec![remember, follow]).await {
        Ok(_) => Verdict::Ack,
        Err(error) => {
            eprintln!("{} {}: {error}", event.topic, event.id);
            Verdict::Retry(None)
        }
    }
}

async fn create_product(Json(new): Json<NewProduct>) -> Result<Created<Product>> {
    let NewProduct { id, name, price, in_stock } = new.validated()?;
    let mut product = Product { id: id.unwrap_or_else(|| new_id(time::now())), name, price, in_stock };

    let created: Option<(bool,)> = db::query_optional(
        "INSERT INTO products (id, name, price, in_stock) \
         VALUES ($1, $2, $3, COALESCE((SELECT in_stock FROM known_stock WHERE product_id = $1), $4)) RETURNING in_stock",
        params![&product.id, &product.name, product.price, product.in_stock],
    )
    .await
    .map_err(|error| match error {
        error if db::is_duplicate(&error) => Error::bad_request("Product already exists"),
        error => error.into(),
    })?;
    product.in_stock = created.map_or(product.in_stock, |(in_stock,)| in_stock);
    Ok(Created(product))
}

async fn list_products(Query(page): Query<Page>) -> Result<Json<Vec<Product>>> {
    let products = db::query(
        "SELECT id, name, price, in_stock FROM products WHERE id > $1 ORDER BY id LIMIT $2",
        params![&page.after, page.limit()?],
    )
    .await?;
    Ok(Json(products))
}

async fn get_product(Path(id): Path<String>) -> Result<Json<Product>> {
    find_product(&id).await?.map(Json).ok_or(Error::not_found("Product not found"))
}

async fn change_product(Path(id): Path<String>, Json(change): Json<Change>) -> Result<Json<Product>> {
    let Change { name, price, in_stock } = change.validated()?;
    db::execute(
        "UPDATE products SET name = COALESCE($1, name), price = COALESCE($2, price), \
         in_stock = COALESCE($3, in_stock) WHERE id = $4",
        params![name, price, in_stock, &id],
    )
    .await?;
    get_product(Path(id)).await
}

async fn find_product(id: &str) -> db::Result<Option<Product>> {
    db::query_optional("SELECT id, name, price, in_stock FROM products WHERE id = $1", params![id]).await
}

/// The products among these ids that exist, in no order.
async fn find_products(ids: &[String]) -> db::Result<Vec<Product>> {
    let Some(last) = ids.last() else { return Ok(Vec::new()) };
    // The number of placeholders is rounded up, the last id repeated: few different statements, so that the database
    // finds each prepared already.
    let count = ids.len().next_power_of_two();
    let placeholders: Vec<String> = (1..=count).map(|n| format!("${n}")).collect();
    let sql = format!("SELECT id, name, price, in_stock FROM products WHERE id IN ({})", placeholders.join(", "));
    let params = ids.iter().chain(std::iter::repeat(last)).take(count).map(db::Value::from).collect();
    db::query(&sql, params).await
}

/// What the neighbours call.
impl catalog::Guest for ProductService {
    async fn get_product(id: String) -> Result<catalog::Product, LookupError> {
        find_product(&id).await.map_err(unavailable)?.map(Into::into).ok_or(LookupError::NotFound(id))
    }

    async fn get_products(ids: Vec<String>) -> Result<Vec<catalog::Product>, LookupError> {
        if ids.len() > LOOKUP_MAX {
            return Err(LookupError::TooMany(LOOKUP_MAX as u32));
        }
        let found = find_products(&ids).await.map_err(unavailable)?;
        let by_id: HashMap<&str, &Product> = found.iter().map(|product| (product.id.as_str(), product)).collect();
        ids.into_iter()
            .map(|id| match by_id.get(id.as_str()) {
                Some(product) => Ok((*product).clone().into()),
                None => Err(LookupError::NotFound(id)),
            })
            .collect()
    }
}

impl From<Product> for catalog::Product {
    fn from(Product { id, name, price, in_stock }: Product) -> Self {
        Self { id, name, price: price.minor(), in_stock }
    }
}

/// The database is this service's own affair: to a neighbour it means that it could not be asked.
fn unavailable(error: db::Error) -> LookupError {
    LookupError::Fault(Fault::from(error))
}
