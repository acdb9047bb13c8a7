//! Configuration and secrets that the manifest gives this service.

use crate::{Error, Result, bindings::wasi::config::store};
use std::{fmt::Display, str::FromStr};

/// The value of this key, or none where the manifest does not give it.
///
/// # Errors
/// 500 where the configuration cannot be read.
pub fn get(key: &str) -> Result<Option<String>> {
    store::get(key).map_err(|error| Error::internal(format_args!("configuration {key}: {error}")))
}

/// The value of this key as a `T`, or `default` where the manifest does not give it.
///
/// What the value is, no error says: it may be a secret.
///
/// # Errors
/// 500 where the configuration cannot be read or the value is not a `T`.
pub fn get_or<T>(key: &str, default: T) -> Result<T>
where
    T: FromStr,
    T::Err: Display,
{
    match get(key)? {
        None => Ok(default),
        Some(text) => text.parse().map_err(|error| Error::internal(format_args!("configuration {key}: {error}"))),
    }
}
