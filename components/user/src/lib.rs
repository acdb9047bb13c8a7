//! Who is registered in the shop.

mod new_user;

use new_user::NewUser;
use serde::Serialize;
use wharf_sdk::{
    Created, Error, Json, Path, Result, Router, db,
    events::{NewEvent, OutboxError},
    from_row, new_id, params, time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/users"],
        world: "package shop:user; world user { export shop:users/users@0.1.0; }",
    }
}
use wit::exports::shop::users::users::{self, LookupError};

wharf_sdk::service! {
    /// Registers users, and tells who they are.
    pub struct UserService {
        routes: routes,
        migrations: [("create users", include_str!("../migrations/1-create-users.sql"))],
    }
}

wit::export!(UserService with_types_in wit);

fn routes() -> Router {
    Router::new().post("/users", create_user).get("/users/{id}", get_user)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    id: String,
    email: String,
    name: String,
    created_at: String,
}

from_row!(User { id, email, name, created_at });

/// The payload of `user.created`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserCreated<'a> {
    user_id: &'a str,
    email: &'a str,
    name: &'a str,
}

async fn create_user(Json(new): Json<NewUser>) -> Result<Created<User>> {
    let NewUser { email, name } = new.validated()?;
    let now = time::now();
    let user = User { id: new_id(now), email, name, created_at: now.to_string() };

    let insert = db::statement(
        "INSERT INTO users (id, email, name, created_at) VALUES ($1, $2, $3, $4)",
        params![&user.id, &user.email, &user.name, &user.created_at],
    );
    let created = UserCreated { user_id: &user.id, email: &user.email, name: &user.name };
    let event = NewEvent::about("user.created", &user.id, &created)?;
    db::batch_and_publish(vec![insert], vec![event]).await.map_err(|error| match error {
        OutboxError::Store(error) if db::is_duplicate(&error) => Error::bad_request("User already exists"),
        error => error.into(),
    })?;
    Ok(Created(user))
}

async fn get_user(Path(id): Path<String>) -> Result<Json<User>> {
    find_user(&id).await?.map(Json).ok_or(Error::not_found("User not found"))
}

async fn find_user(id: &str) -> db::Result<Option<User>> {
    db::query_optional("SELECT id, email, name, created_at FROM users WHERE id = $1", params![id]).await
}

/// What the neighbours call.
impl users::Guest for UserService {
    async fn get_user(id: String) -> Result<users::User, LookupError> {
        let user = find_user(&id).await.map_err(unavailable)?.ok_or(LookupError::NotFound)?;
        Ok(users::User { id: user.id, email: user.email, name: user.name, created_at: user.created_at })
    }

    async fn user_exists(id: String) -> Result<bool, LookupError> {
        let found: Option<(i64,)> =
            db::query_optional("SELECT 1 FROM users WHERE id = $1", params![id]).await.map_err(unavailable)?;
        Ok(found.is_some())
    }
}

/// The database is this service's own affair: to a neighbour it means that it could not be asked.
fn unavailable(error: db::Error) -> LookupError {
    LookupError::Fault(error.into())
}
