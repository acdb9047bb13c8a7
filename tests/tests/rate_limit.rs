//! Rate limits, as clients meet them.

use wharf_tests::{Answer, App, HELLO, eventually, request};

/// That it was refused by the limit of this name.
#[track_caller]
fn assert_limited(answer: &Answer, name: &str) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded", "{problem}");
    assert_eq!(problem["violated-policies"], serde_json::json!([name]), "{problem}");
    let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("when to come again");
    assert_eq!(answer.header("ratelimit"), Some(format!("\"{name}\";r=0;t={after}").as_str()), "{answer:?}");
}

#[tokio::test]
async fn a_route_has_its_own_limit_or_the_gateways_or_none() {
    let app = App::new(
        r#"
[gateway]
listen = "127.0.0.1:0"
rate-limit = { requests = 3, per = "1h" }

[services.hello]
component = "<hello-p3>"
[[gateway.routes]]
path = "/a"
service = "hello"
[[gateway.routes]]
path = "/b"
service = "hello"
rate-limit = { requests = 1 }
[[gateway.routes]]
path = "/c"
service = "hello"
rate-limit = false
"#,
    );
    let host = app.start().await;
    for (path, requests) in [("/a", 3), ("/b", 1)] {
        for left in (0..requests).rev() {
            let answer = host.get(path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let policy = format!("\"{path}\";q={requests};w=3600");
            assert_eq!(answer.header("ratelimit-policy"), Some(policy.as_str()));
            let prefix = format!("\"{path}\";r={left};t=");
            assert!(answer.header("ratelimit").is_some_and(|field| field.starts_with(&prefix)), "{answer:?}");
        }
        assert_limited(&host.get(path).await, path);
    }
    for _ in 0..10 {
        let answer = host.get("/c").await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
    }
    let status = host.status(&app).await;
    let limits = status["rate_limits"].as_array().cloned().unwrap_or_default();
    let counted: Vec<_> = limits.iter().map(|it| [&it["route"], &it["granted"], &it["refused"]]).collect();
    assert_eq!(serde_json::json!(counted), serde_json::json!([["/a", 3, 1], ["/b", 1, 1]]), "{status}");
    assert_eq!(limits[0]["keys"], serde_json::json!({ "held": 1, "active": 1, "most": 16384 }), "{status}");
    let shown = host.wharf(&app, &["status"]).await.stdout;
    let line = shown.lines().find(|line| line.starts_with("/a ")).unwrap_or_default();
    let columns: Vec<_> = line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
    assert_eq!(columns, ["/a", "3 per 3600s", "client", "3", "1", "1 of 16384"], "{shown}");
    // What was refused never came to the service's edge.
    let edge = host.edge(&app, "gateway -> hello").await;
    assert_eq!(edge["calls"], 14, "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn what_was_used_up_comes_back() {
    let app = App::new(&format!("{HELLO}rate-limit = {{ requests = 1, per = \"2s\" }}"));
    let host = app.start().await;
    assert_eq!(host.get("/").await.status, 404, "the route is for what is below it");
    assert_eq!(host.get("/a").await.status, 200);
    eventually("the limit is met", async || match host.get("/a").await {
        answer if answer.status == 429 => Ok(answer),
        answer => Err(answer),
    })
    .await;
    eventually("it is over", async || match host.get("/a").await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer),
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn who_has_a_key_is_counted_by_it() {
    let limit = "rate-limit = { requests = 2, per = \"1h\", key = \"header:x-api-key\" }";
    let app = App::new(&format!("{HELLO}{limit}"));
    let host = app.start().await;
    let ask = async |key: &'static str| {
        let mut request = request("GET", "/a", "");
        request.headers_mut().insert("x-api-key", hyper::header::HeaderValue::from_static(key));
        host.send(request).await
    };
    for _ in 0..2 {
        assert_eq!(ask("one").await.status, 200);
    }
    assert_limited(&ask("one").await, "/{*rest}");
    for _ in 0..2 {
        assert_eq!(ask("two").await.status, 200, "another key");
        assert_eq!(host.get("/a").await.status, 200, "none");
    }
    assert_limited(&host.get("/a").await, "/{*rest}");
    host.stop().await;
}
