//! Puts things into buckets by wasi:keyvalue and takes them out, as the query says. Knows nothing of Wharf.

use wasi::keyvalue::{
    atomics, batch,
    store::{self, Error},
};
use wasip3::http::types::{ErrorCode, Request, Response};

wit_bindgen::generate!({
    path: "../../../wit/deps/keyvalue",
    world: "wasi:keyvalue/imports",
    generate_all,
});

wasip3::http::service::export!(Shelf);
struct Shelf;

impl wasip3::exports::http::handler::Guest for Shelf {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let operation = path.rsplit('/').next().unwrap_or_default();
        match run(operation, &query) {
            Ok(Some(text)) => reply::text(200, text),
            Ok(None) => reply::text(404, "nothing"),
            Err(Error::NoSuchStore) => reply::text(403, "no such store"),
            Err(Error::AccessDenied) => reply::text(403, "access denied"),
            Err(Error::Other(words)) => reply::text(500, words),
        }
    }
}

fn run(operation: &str, query: &str) -> Result<Option<String>, Error> {
    let param = |name| reply::param(query, name);
    let keys = || param("keys").split(',').map(str::to_owned).collect::<Vec<_>>();
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    let bucket = store::open(param("bucket"))?;
    let done = Some("done".to_owned());
    match operation {
        "get" => Ok(bucket.get(param("key"))?.map(text)),
        "set" => bucket.set(param("key"), param("value").as_bytes()).map(|()| done),
        "delete" => bucket.delete(param("key")).map(|()| done),
        "exists" => Ok(Some(bucket.exists(param("key"))?.to_string())),
        "increment" => {
            let delta = param("by").parse().map_err(|_| Error::Other("by how much?".into()))?;
            Ok(Some(atomics::increment(&bucket, param("key"), delta)?.to_string()))
        }
        "keys" => {
            let mut keys = bucket.list_keys(None)?.keys;
            keys.sort();
            Ok(Some(keys.join(",")))
        }
        "get-many" => {
            let values = batch::get_many(&bucket, &keys())?.into_iter();
            Ok(Some(
                values
                    .map(|it| it.map_or("-".into(), |(key, value)| key + "=" + &text(value)))
                    .collect::<Vec<_>>()
                    .join(","),
            ))
        }
        "set-many" => {
            let entries: Vec<_> = keys().into_iter().map(|key| (key, param("value").as_bytes().to_vec())).collect();
            batch::set_many(&bucket, &entries).map(|()| done)
        }
        "delete-many" => batch::delete_many(&bucket, &keys()).map(|()| done),
        other => Err(Error::Other(format!("no operation {other}"))),
    }
}
