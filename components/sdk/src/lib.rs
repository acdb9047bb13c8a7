//! Write services for Wharf: routes, JSON, database, events, mail, typed calls.
//!
//! ```no_run
//! use wharf_sdk::{Json, Path, Result, Router, db, params};
//!
//! wharf_sdk::service! {
//!     /// Says hello, and remembers to whom.
//!     struct Greeter {
//!         routes: routes,
//!         migrations: [("create greetings", "CREATE TABLE greetings (name TEXT PRIMARY KEY)")],
//!     }
//! }
//!
//! fn routes() -> Router {
//!     Router::new().post("/greetings/{name}", greet)
//! }
//!
//! async fn greet(Path(name): Path<String>) -> Result<Json<String>> {
//!     db::execute("INSERT INTO greetings (name) VALUES ($1)", params![&name]).await?;
//!     Ok(Json(format!("Hello, {name}!")))
//! }
//! ```
//!
//! A service exports `wasi:http/handler@0.3.0`, and what else [`service!`] is told. Its instance answers many requests
//! at a time, each up to its next `.await`, and is one of several: nothing that must last or be shared belongs in a
//! `static`.
//!
//! Where a call to the platform costs more than the work around it, the number of calls is what makes a service
//! fast. So a request is asked for its method and target in one, and for nothing else unless the handler is; body and
//! response cross in one piece each (`wharf:http/messages`).

pub mod bindings;
pub mod config;
pub mod db;
mod error;
pub mod events;
pub mod fault;
pub mod http;
mod id;
mod json;
pub mod kv;
pub mod mail;
mod request;
mod response;
mod router;
pub mod saga;
pub mod time;

pub use error::{Error, Result};
pub use futures::future::join;
pub use id::new_id;
pub use json::{Accepted, Created, Json, whole_number};
pub use request::{Bytes, DEFAULT_BODY_LIMIT, Extract, Method, Path, Query, Request};
pub use response::{Respond, Response};
pub use router::{Handler, Router, Routes};
#[doc(hidden)]
pub use wit_bindgen;

/// Answers a request of the host by the routes.
#[doc(hidden)]
pub async fn serve(
    routes: &Routes,
    request: bindings::wasi::http::types::Request,
) -> std::result::Result<bindings::wasi::http::types::Response, bindings::wasi::http::types::ErrorCode> {
    let request = Request::from_host(request);
    let head = request.head;
    routes.respond(request).await.send(head)
}

/// Declares a service and what it exports.
///
/// - `routes`: a function that returns the [`Router`];
/// - `migrations`: the schema of its database, `[("what it does", "SQL"), …]`, oldest first. A service with
///   `database = true` in the manifest has them.
/// - `ready`: an async function without parameters that says, by `Result<(), String>`, whether the service is ready to be
///   called; each new revision is asked once before it is.
/// - `events`: an async function from [`events::Event`] to [`events::Verdict`]. A service with subscriptions has it.
///
/// - `sagas`: functions that return a [`saga::Saga`] each, `[checkout, …]`. A service with `database = true` in the manifest
///   can have them.
///
/// Typed interfaces that it exports are bound with [`wit!`].
#[macro_export]
macro_rules! service {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($key:ident : $value:tt),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name;
        $($crate::service!(@$key $name $value);)*
    };
    (@routes $name:ident $routes:tt) => {
        impl $crate::bindings::http::exports::wasi::http::handler::Guest for $name {
            async fn handle(
                request: $crate::bindings::wasi::http::types::Request,
            ) -> ::std::result::Result<
                $crate::bindings::wasi::http::types::Response,
                $crate::bindings::wasi::http::types::ErrorCode,
            > {
                static ROUTES: ::std::sync::LazyLock<$crate::Routes> =
                    ::std::sync::LazyLock::new(|| $crate::Router::build($routes()));
                $crate::serve(&ROUTES, request).await
            }
        }
        $crate::bindings::http::export_http!($name with_types_in $crate::bindings::http);
    };
    (@migrations $name:ident $migrations:tt) => {
        impl $crate::bindings::migrations::exports::wharf::store::migrations::Guest for $name {
            fn migrations() -> ::std::vec::Vec<
                $crate::bindings::migrations::exports::wharf::store::migrations::Migration,
            > {
                let migrations: &[(&str, &str)] = &$migrations;
                $crate::db::migrations(migrations)
            }
        }
        $crate::bindings::migrations::export_migrations!($name with_types_in $crate::bindings::migrations);
    };
    (@ready $name:ident $ready:tt) => {
        impl $crate::bindings::health::exports::wharf::platform::health::Guest for $name {
            async fn ready() -> ::std::result::Result<(), ::std::string::String> {
                $ready().await
            }
        }
        $crate::bindings::health::export_health!($name with_types_in $crate::bindings::health);
    };
    (@events $name:ident $handler:tt) => {
        impl $crate::bindings::events::exports::wharf::messaging::handler::Guest for $name {
            async fn handle(event: $crate::events::Event) -> $crate::events::Verdict {
                $handler(event).await
            }
        }
        $crate::bindings::events::export_events!($name with_types_in $crate::bindings::events);
    };
    (@sagas $name:ident [$($saga:path),* $(,)?]) => {
        const _: () = {
            static SAGAS: ::std::sync::LazyLock<$crate::saga::Sagas> =
                ::std::sync::LazyLock::new(|| $crate::saga::Sagas::new([$($saga().erase()),*]));

            impl $crate::bindings::sagas::exports::wharf::saga::steps::Guest for $name {
                fn definitions() -> ::std::vec::Vec<$crate::saga::Definition> {
                    SAGAS.definitions()
                }

                async fn act(call: $crate::saga::Call) -> $crate::saga::Outcome {
                    SAGAS.act(call).await
                }

                async fn compensate(call: $crate::saga::Call) -> $crate::saga::Outcome {
                    SAGAS.compensate(call).await
                }
            }
        };
        $crate::bindings::sagas::export_sagas!($name with_types_in $crate::bindings::sagas);
    };
}

/// Binds typed interfaces of the application: those that this service exports for its neighbours, and those of its
/// neighbours that it imports.
///
/// ```ignore
/// mod wit {
///     wharf_sdk::wit! {
///         path: ["../../wit/shop/users"],
///         world: "package shop:user; world user { export shop:users/users@0.1.0; }",
///     }
/// }
///
/// impl wit::exports::shop::users::users::Guest for UserService { … }
/// wit::export!(UserService with_types_in wit);
/// ```
///
/// `path` names folders of WIT packages, from the crate's own folder; packages that others use come first, and
/// `wharf:platform` is there already.
#[macro_export]
macro_rules! wit {
    (path: [$($path:literal),* $(,)?], world: $world:literal $(,)?) => {
        $crate::wit_bindgen::generate!({
            path: ["../../wit/wharf/platform", $($path),*],
            inline: $world,
            with: { "wharf:platform/faults@0.1.0": wharf_sdk::bindings::wharf::platform::faults },
            runtime_path: "::wharf_sdk::wit_bindgen::rt",
            additional_derives: [Clone, PartialEq],
            generate_all,
        });
    };
}
