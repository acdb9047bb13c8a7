//! What several files of tests begin with.

use crate::{Answer, Connection, Failed, Host, Origin, eventually};
use tokio::task::JoinHandle;

/// One service, `hello`, that answers everything with "Hello, world!".
pub const HELLO: &str = r#"
[services.hello]
component = "<hello-p3>"
[[gateway.routes]]
path = "/{*rest}"
service = "hello"
"#;

/// A service of this component that gets `/{name}` and nothing below it. `more` is more of its table.
pub fn at(name: &str, component: &str, more: &str) -> String {
    format!(
        r#"
[services.{name}]
component = "<{component}>"
{more}
[[gateway.routes]]
path = "/{name}"
service = "{name}"
"#
    )
}

/// A service of this component that gets what is below `/{name}`, without that. `more` is more of its table.
pub fn below(name: &str, component: &str, more: &str) -> String {
    format!(
        r#"
[services.{name}]
component = "<{component}>"
{more}
[[gateway.routes]]
path = "/{name}/{{*rest}}"
service = "{name}"
strip-prefix = "/{name}"
"#
    )
}

/// `payment`, a service outside by this table, that gets what is below `/pay`.
pub fn outside(payment: &str) -> String {
    format!(
        r#"
[services.payment]
{payment}

[[gateway.routes]]
path = "/pay/{{*rest}}"
service = "payment"
strip-prefix = "/pay"
"#
    )
}

/// The edge in [`behind`].
pub const EDGE: &str = "gateway -> callee";

/// One service, `callee`, of this component, that gets everything, and a policy for the edge to it.
pub fn behind(component: &str, policy: &str) -> String {
    format!(
        r#"
[services.callee]
component = "<{component}>"
[[gateway.routes]]
path = "/{{*rest}}"
service = "callee"

[policy.edges."{EDGE}"]
{policy}
"#
    )
}

/// `linked-caller` behind the gateway, `linked-callee` behind that, and policies.
pub fn linked(policies: &str) -> String {
    format!(
        r#"
[services.caller]
component = "<linked-caller>"
calls = ["callee"]
[[gateway.routes]]
path = "/{{*rest}}"
service = "caller"

[services.callee]
component = "<linked-callee>"

{policies}
"#
    )
}

/// One service, `caller`, that gets everything, and asks `origin` when it is told to. `more` may begin with more keys of
/// the service.
pub fn caller(origin: &Origin, more: &str) -> String {
    format!(
        r#"
[services.caller]
component = "<caller>"
outbound = ["http://{}"]
{more}

[[gateway.routes]]
path = "/{{*rest}}"
service = "caller"
"#,
        origin.address(),
    )
}

/// For [`App::shop`](crate::App::shop): a service that gets what is below `/buyer`, and calls the shop's typed interfaces.
pub const BUYER: &str = r#"
[services.buyer]
component = "<buyer>"
calls = ["payment", "inventory", "order"]

[[gateway.routes]]
path = "/buyer/{*rest}"
service = "buyer"
strip-prefix = "/buyer"
"#;

/// A component that handles HTTP as far as its types tell, and does this, in WebAssembly text, when it is instantiated.
pub fn starting_with(body: &str) -> Vec<u8> {
    let text = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $out))
        (core module $m
            (func (export "handle") (param i32 i32))
            (func $start BODY)
            (start $start))
        (core instance $i (instantiate $m))
        (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $i "handle")))
        (instance $handler (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
    wat::parse_str(text.replace("BODY", body)).expect("it is a component")
}

/// A `GET` under way.
#[derive(Debug)]
pub struct Asking(JoinHandle<Result<Answer, Failed>>);

// === impl Host ===

impl Host {
    /// Begins to `GET` a path over a connection of its own.
    pub fn ask(&self, path: &str) -> Asking {
        let (address, path) = (self.address(), path.to_owned());
        Asking(tokio::spawn(async move { Connection::open(address).await?.get(&path).await }))
    }

    /// What [`BUYER`] says to a path below its own, with the status.
    pub async fn buyer(&self, path: &str) -> (u16, String) {
        let answer = self.get(&format!("/buyer/{path}")).await;
        (answer.status, answer.text().to_owned())
    }

    /// Asks for a path many times at once; every request is answered.
    pub async fn at_once(&self, path: &str, times: usize) -> Vec<Answer> {
        let asking: Vec<_> = (0..times).map(|_| self.ask(path)).collect();
        let mut answers = Vec::with_capacity(times);
        for asking in asking {
            answers.push(asking.answer().await);
        }
        answers
    }

    /// Begins to ask [`caller`] for what `origin` holds back until it lets go, and comes back when the origin is asked.
    pub async fn hold(&self, origin: &Origin) -> Asking {
        let before = origin.asked();
        let asking = self.ask(&held(origin));
        eventually("the origin is asked", async || if origin.asked() == before + 1 { Ok(()) } else { Err(()) }).await;
        asking
    }
}

/// The path at [`caller`] that asks `origin` for what it holds back.
pub fn held(origin: &Origin) -> String {
    format!("/outbound?origin={}&path=/held", origin.address())
}

// === impl Asking ===

impl Asking {
    /// Whether there is no answer yet.
    pub fn is_under_way(&self) -> bool {
        !self.0.is_finished()
    }

    /// The answer.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn answer(self) -> Answer {
        self.try_answer().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks before it is whole.
    pub async fn try_answer(self) -> Result<Answer, Failed> {
        self.0.await.expect("it does not panic")
    }
}
