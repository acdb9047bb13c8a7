//! JSON in and out.

use crate::{Error, Extract, Request, Respond, Response, Result};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};

/// A JSON body: as an argument of a handler it is read, as its result it is written with status 200.
///
/// The content type of a request is not looked at: what is not JSON is refused as such with 400.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// A JSON body with status 201: something was made.
#[derive(Debug, Clone)]
pub struct Created<T>(pub T);

/// A JSON body with status 202: something was begun.
#[derive(Debug, Clone)]
pub struct Accepted<T>(pub T);

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

impl<T: Serialize> Respond for Accepted<T> {
    fn respond(self) -> Response {
        response(202, &self.0)
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

/// Reads a whole number, also where a zero fraction is written with it: to JSON Schema, and to most who write JSON, `2.0` is
/// the number `2`. For members: `#[serde(deserialize_with = "wharf_sdk::whole_number")]`.
///
/// # Errors
/// Where it is another number, or none.
pub fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
        Ok(number as u32)
    } else {
        Err(D::Error::custom(format_args!("expected a whole number from 0 to {}", u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
        let read = |text: &str| whole_number(&mut serde_json::Deserializer::from_str(text)).ok();
        for (text, number) in [("2", 2), ("2.0", 2), ("2e0", 2), ("0", 0), ("4294967295", u32::MAX)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in ["1.5", "-1", "4294967296", "1e300", "\"1\"", "null", "[]"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
