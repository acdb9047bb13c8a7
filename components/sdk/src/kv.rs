//! Key-value storage, by `wasi:keyvalue`: the buckets that the manifest names for this service.
//!
//! The operations are the standard's own and not async: an instance does nothing else while one runs.

pub use crate::bindings::wasi::keyvalue::{
    atomics::increment,
    batch::{delete_many, get_many, set_many},
    store::{Bucket, Error, open},
};
use crate::{Result, json};
use serde::{Serialize, de::DeserializeOwned};

impl Bucket {
    /// The value of a key as the JSON of a `T`; none where the key has none.
    ///
    /// # Errors
    /// 500 where the bucket cannot be read, or what is there is not the JSON of a `T`.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&value);
        parsed.map(Some).map_err(|error| crate::Error::internal(format_args!("value of `{key}`: {error}")))
    }

    /// Gives a key a value as JSON.
    ///
    /// # Errors
    /// 500 where the bucket cannot be written.
    pub fn set_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        let value =
            json::to_vec(value).map_err(|error| crate::Error::internal(format_args!("value of `{key}`: {error}")))?;
        Ok(self.set(key, &value)?)
    }
}
