//! Answers that a guest makes piece by piece.

use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use wharf_tests::{App, Connection, Origin, caller, eventually, request, within};

/// Begins to ask for an answer of which the first piece is made at once, and the last when `origin` lets go.
async fn begin(connection: &mut Connection, origin: &Origin) -> Response<Incoming> {
    let path = format!("/stream?origin={}&path=/held", origin.address());
    let answer = within("the head of the answer", connection.begin(request("GET", &path, ""))).await;
    answer.expect("it is answered")
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut Incoming) -> Option<String> {
    let frame = within("a piece of the answer", body.frame()).await?.expect("it does not break off");
    let data = frame.into_data().expect("it has no trailers");
    Some(String::from_utf8(data.to_vec()).expect("it is text"))
}

fn app(origin: &Origin) -> App {
    App::new(&caller(origin, "[policy.defaults]\ndeadline = \"1m\""))
}

#[tokio::test]
async fn a_client_has_the_first_piece_before_the_last_is_made() {
    let origin = Origin::start().await;
    let app = app(&origin);
    let host = app.start().await;
    let mut connection = host.connect().await;
    let answer = begin(&mut connection, &origin).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["transfer-encoding"], "chunked");
    let mut body = answer.into_body();
    assert_eq!(piece(&mut body).await.as_deref(), Some("first"));
    // What the last one is made of is still with the origin.
    eventually("the origin is asked", async || if origin.asked() == 1 { Ok(()) } else { Err(()) }).await;
    // The instance is not held up by it.
    host.get("/alive").await.assert_text(200, "alive");
    origin.let_go();
    assert_eq!(piece(&mut body).await.as_deref(), Some("outside"));
    assert_eq!(piece(&mut body).await, None);
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_frees_the_service() {
    let origin = Origin::start().await;
    let app = app(&origin);
    let host = app.start().await;
    let mut connection = host.connect().await;
    let mut body = begin(&mut connection, &origin).await.into_body();
    assert_eq!(piece(&mut body).await.as_deref(), Some("first"));
    eventually("the origin is asked", async || if origin.asked() == 1 { Ok(()) } else { Err(()) }).await;
    drop((body, connection));
    // The origin does not let go: only its client's leaving can end it, once it has lingered for as long as it may.
    eventually("nothing is under way", async || {
        let service = host.service(&app, "caller").await;
        let instances = &service["instances"];
        if instances["under_way"] == 0 && instances["in_flight"] == 0 { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    host.get("/alive").await.assert_text(200, "alive");
    host.stop().await;
}
