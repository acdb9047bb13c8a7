use super::support::*;
use crate::gateway::RouteError;
use http::Method;

fn answering(path: &str, name: &'static str) -> crate::gateway::Route {
    route(path, answers(200, name))
}

#[tokio::test]
async fn the_most_specific_pattern_wins_in_whatever_order_they_come() {
    let list = [
        answering("/{*rest}", "all"),
        answering("/users/{*rest}", "users"),
        answering("/users/{id}/dashboard", "dashboard"),
        answering("/users/me", "me"),
        answering("/", "root"),
    ];
    for reversed in [false, true] {
        let mut list = list.to_vec();
        if reversed {
            list.reverse();
        }
        let server = Server::start(routes(list));
        for (path, expected) in [
            ("/", "root"),
            ("/users/me", "me"),
            ("/users/7", "users"),
            ("/users/7/orders", "users"),
            ("/users/7/dashboard", "dashboard"),
            ("/users/7/dashboard/x", "users"),
            ("/users", "all"),
            ("/favicon.ico", "all"),
        ] {
            assert_eq!(server.get(path).await.text(), expected, "{path}");
        }
    }
}

#[tokio::test]
async fn what_a_pattern_captures_is_never_empty() {
    let server = Server::start(routes([answering("/files/{*rest}", "rest"), answering("/users/{id}", "id")]));
    for path in ["/files/a", "/files/a/", "/files/a/b", "/files//"] {
        assert_eq!(server.get(path).await.text(), "rest", "{path}");
    }
    assert_eq!(server.get("/users/a").await.text(), "id");
    for path in ["/files", "/files/", "/users", "/users/", "/users/a/"] {
        server.get(path).await.problem(404);
    }
    // Each of them can be a route of its own beside it.
    let beside = [answering("/files/{*rest}", "rest"), answering("/files", "folder"), answering("/files/", "slash")];
    let server = Server::start(routes(beside));
    for (path, expected) in [("/files", "folder"), ("/files/", "slash"), ("/files/a", "rest")] {
        assert_eq!(server.get(path).await.text(), expected, "{path}");
    }
}

#[tokio::test]
async fn no_route_is_a_404_and_a_wrong_method_a_405_that_says_which_are_right() {
    let mut read = answering("/users/{id}", "user");
    read.methods = vec![Method::GET, Method::PATCH];
    let server = Server::start(routes([read]));

    let document = server.get("/nothing").await.problem(404);
    assert_eq!(document["type"], "about:blank");
    assert_eq!(document["title"], "Not Found");

    let refused = server.ask("DELETE /users/1 HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    refused.problem(405);
    assert_eq!(refused.header("allow"), Some("GET, PATCH, HEAD, OPTIONS"));

    let options = server.ask("OPTIONS /users/1 HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, PATCH, HEAD, OPTIONS")));
    assert_eq!(server.ask("OPTIONS * HTTP/1.1\r\nhost: shop\r\n\r\n").await.status, 204);
    server.ask("CONNECT shop:443 HTTP/1.1\r\nhost: shop\r\n\r\n").await.problem(501);
}

#[tokio::test]
async fn one_pattern_may_lead_to_several_services_by_method() {
    let mut write = answering("/orders", "writer");
    write.methods = vec![Method::POST];
    let server = Server::start(routes([write, answering("/orders", "reader")]));
    assert_eq!(server.get("/orders").await.text(), "reader");
    let posted = server.ask("POST /orders HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(posted.text(), "writer");
}

#[tokio::test]
async fn the_prefix_goes_and_all_else_stays_as_it_was_sent() {
    let (upstream, mut seen) = witness();
    let mut all = route("/api/{*rest}", upstream.clone());
    all.strip_prefix = Some("/api".into());
    let mut itself = route("/api", upstream);
    itself.strip_prefix = Some("/api".into());
    let server = Server::start(routes([all, itself]));
    for (sent, received) in [
        ("/api/users/1", "/users/1"),
        ("/api/users/caf%C3%A9%2f%7e?a=%20b&&c=/api/d?e", "/users/caf%C3%A9%2f%7e?a=%20b&&c=/api/d?e"),
        ("/api//twice/", "//twice/"),
        ("/api", "/"),
        ("/api?x=1", "/?x=1"),
    ] {
        assert_eq!(server.get(sent).await.status, 200, "{sent}");
        assert_eq!(soon(seen.recv()).await.unwrap().uri.to_string(), received);
    }
    server.get("/apiary").await.problem(404);
}

#[tokio::test]
async fn paths_that_two_readers_could_read_differently_are_refused() {
    let server = Server::start(routes([answering("/{*rest}", "all")]));
    for path in ["/a%00b", "/a%", "/a%g1", "/a/../b", "/a/%2e%2e/b", "/./a", "/a%2F..%2Fb"] {
        server.get(path).await.problem(400);
    }
}

#[tokio::test]
async fn routes_are_replaced_while_the_gateway_serves() {
    let server = Server::start(routes([answering("/a", "old")]));
    let mut client = server.connect().await;
    let request = "GET /a HTTP/1.1\r\nhost: shop\r\n\r\n";
    client.send(request).await;
    assert_eq!(client.answer().await.text(), "old");
    server.routes.replace(routes([answering("/a", "new")]).build().unwrap());
    client.send(request).await;
    assert_eq!(client.answer().await.text(), "new");
}

#[test]
fn routes_that_cannot_all_be_served_are_refused() {
    let refused = |list: Vec<crate::gateway::Route>| routes(list).build().unwrap_err();
    assert_eq!(
        refused(vec![answering("/u/{id}", ""), answering("/u/{name}", "")]),
        RouteError::Conflict { path: "/u/{name}".into(), with: "/u/{id}".into() }
    );
    assert_eq!(
        refused(vec![answering("/u", ""), answering("/u", "")]),
        RouteError::Duplicate { path: "/u".into(), method: "every method".into() }
    );
    let get = |path| crate::gateway::Route { methods: vec![Method::GET], ..answering(path, "") };
    assert_eq!(refused(vec![get("/u"), get("/u")]), RouteError::Duplicate { path: "/u".into(), method: "GET".into() });
    for (path, prefix) in [("/api/x", "/ap"), ("/api/x", "/v1"), ("/{a}/x", "/{a}"), ("/api/x", "api")] {
        let route = crate::gateway::Route { strip_prefix: Some(prefix.into()), ..answering(path, "") };
        assert!(matches!(refused(vec![route]), RouteError::StripPrefix { .. }), "{path} {prefix}");
    }
}

#[test]
fn aggregates_that_make_no_answer_are_refused() {
    let refused = |parts| aggregate("/users/{id}/dashboard", parts).build().unwrap_err();
    assert!(matches!(refused(vec![]), RouteError::Parts { .. }));
    let user = || part("user", "/users/{id}", answers(200, "{}"));
    assert!(matches!(refused(vec![user(), user()]), RouteError::Parts { .. }));
    assert!(matches!(refused(vec![part("_missing", "/", answers(200, ""))]), RouteError::Parts { .. }));
    let error = refused(vec![part("user", "/users/{name}", answers(200, ""))]);
    assert!(matches!(&error, RouteError::UnknownParam { param, .. } if param == "name"));
    let text = error.to_string();
    assert!(text.contains("\"/users/{id}/dashboard\"") && text.contains("\"user\""), "{text}");
}

#[tokio::test]
async fn the_document_is_served_to_whoever_does_not_have_it() {
    let text = r#"{"openapi": "3.1.0", "paths": {"/users/{id}": {"get": {}}}}"#;
    let document = std::sync::Arc::new(crate::gateway::ApiDocument::new(text).expect("it is one"));
    let mut builder = crate::gateway::Routes::builder();
    builder.route(answering("/{*rest}", "rest")).document("/openapi.json".parse().unwrap(), document);
    let server = Server::start(builder);
    let answer = server.get("/openapi.json").await;
    assert_eq!((answer.status, answer.text()), (200, text));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let etag = answer.header("etag").expect("it has one").to_owned();
    let mut client = server.connect().await;
    client.send("HEAD /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some(&*etag)));
    assert_eq!(answer.header("content-length"), Some(&*text.len().to_string()));
    assert_eq!(client.rest().await, b"");
    let known = format!("GET /openapi.json HTTP/1.1\r\nhost: x\r\nif-none-match: {etag}\r\n\r\n");
    let answer = server.ask(&known).await;
    assert_eq!((answer.status, answer.header("etag"), answer.text()), (304, Some(&*etag), ""));
    let answer = server.ask("POST /openapi.json HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    answer.problem(405);
}

#[test]
fn an_operation_of_a_document_is_routed_or_not() {
    let mut read = answering("/users/{id}", "user");
    read.methods = vec![Method::GET];
    let text = r#"{"openapi": "3.1.0", "servers": [{"url": "/"}], "paths": {
        "/users/{user}": {"get": {}, "head": {}, "options": {}, "post": {}},
        "/files/{a}/{b}": {"post": {}, "trace": {}}, "/files": {"get": {}}}}"#;
    let document = crate::gateway::ApiDocument::new(text).expect("it is one");
    let routes = routes([read, answering("/files/{*rest}", "files")]).build().expect("they hold together");
    let told: Vec<_> = document.operations().iter().filter_map(|it| routes.not_routed(it)).collect();
    assert_eq!(
        told,
        [
            "`GET /files` is in the document, and no route matches its path",
            "`POST /users/{user}` is in the document, and the routes of its path take only GET, HEAD, OPTIONS",
        ]
    );
}
