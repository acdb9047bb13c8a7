//! JSON in and out.

use crate::{Error, Extract, Request, Respond, Response, Result};
use serde::{Serialize, de::DeserializeOwned};

/// A JSON body: as an argument of a handler it is read, as its result it is written with status 200.
///
/// The content type of a request is not looked at: what is not JSON is refused as such with 400.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// A JSON body with status 201: something was made.
#[derive(Debug, Clone)]
pub struct Created<T>(pub T);

impl<T: DeserializeOwned> Extract for Json<T> {
    async fn extract(request: &mut Request) -> Result<Self> {
        let body = request.body().await?;
        serde_json::from_slice(&body)
            .map(Json)
            .map_err(|error| Error::bad_request(format!("Body is not the JSON expected: {error}")))
    }
}

impl<T: Serialize> Respond for Json<T> {
    fn respond(self) -> Response {
        response(200, &self.0)
    }
}

impl<T: Serialize> Respond for Created<T> {
    fn respond(self) -> Response {
        response(201, &self.0)
    }
}

fn response<T: Serialize>(status: u16, value: &T) -> Response {
    match to_vec(value) {
        Ok(body) => Response::json_bytes(status, body),
        Err(error) => Error::internal(format_args!("response as JSON: {error}")).into(),
    }
}

/// The value as JSON text; the buffer starts large enough for most answers, so that it seldom grows.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(256);
    serde_json::to_writer(&mut body, value)?;
    Ok(body)
}
