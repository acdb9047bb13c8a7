//! What a service may do with sagas: its own, and those of the services that it may call.

use super::{Error, Register, Snapshot};
use crate::telemetry::TraceContext;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A service's right to start sagas and to look at them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Granted>>);

struct Granted {
    service: Arc<str>,
    own: Option<Arc<Register>>,
    /// Those of the services that it may call; `None` for one that has no database, and so no sagas.
    others: HashMap<String, Option<Arc<Register>>>,
}

// === impl Access ===

impl Access {
    /// The right of `service`, which has these sagas of its own and may call these others. The default is none.
    pub fn new(
        service: Arc<str>,
        own: Option<Arc<Register>>,
        others: impl IntoIterator<Item = (String, Option<Arc<Register>>)>,
    ) -> Self {
        Self(Some(Arc::new(Granted { service, own, others: others.into_iter().collect() })))
    }

    /// Starts a saga of `service`, or of its own, in this trace; see [`Register`].
    ///
    /// # Errors
    ///
    /// When it may not, or the saga can't be started.
    pub async fn start(
        &self,
        trace: TraceContext,
        service: Option<&str>,
        saga: &str,
        id: &str,
        input: Vec<u8>,
    ) -> Result<Snapshot, Error> {
        self.find(service)?.start(trace, saga, id, &input).await
    }

    /// How a saga stands.
    ///
    /// # Errors
    ///
    /// When it may not know, or there is none.
    pub async fn get(&self, service: Option<&str>, saga: &str, id: &str) -> Result<Snapshot, Error> {
        self.find(service)?.get(saga, id).await
    }

    /// How a saga stands when it has ended, or the time is over.
    ///
    /// # Errors
    ///
    /// When it may not know, or there is none.
    pub async fn wait(&self, service: Option<&str>, saga: &str, id: &str, time: Duration) -> Result<Snapshot, Error> {
        self.find(service)?.wait(saga, id, time).await
    }

    fn find(&self, service: Option<&str>) -> Result<&Register, Error> {
        let Some(granted) = &self.0 else {
            return Err(Error::Refused("a revision that changes nothing starts no sagas".into()));
        };
        let named = service.unwrap_or(&granted.service);
        let found = if *named == *granted.service { Some(&granted.own) } else { granted.others.get(named) };
        match found {
            Some(Some(register)) => Ok(register),
            Some(None) => Err(Error::NotFound(format!("service `{named}` has no sagas"))),
            None => {
                // The name comes from the guest and may be of any length.
                let named: String = named.chars().take(64).flat_map(char::escape_debug).collect();
                let service = &granted.service;
                Err(Error::Refused(format!(
                    "service `{service}` may not call `{named}`: add it to `calls` in [services.{service}]"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn get(access: &Access, service: Option<&str>) -> String {
        let found = access.get(service, "trip", "7").now_or_never().expect("it waits for nothing");
        found.expect_err("there are no sagas").to_string()
    }

    #[test]
    fn only_what_may_be_called_has_sagas() {
        let access = Access::new("shop".into(), None, [("pay".to_owned(), None)]);
        assert_eq!(get(&access, None), "service `shop` has no sagas");
        assert_eq!(get(&access, Some("shop")), "service `shop` has no sagas");
        assert_eq!(get(&access, Some("pay")), "service `pay` has no sagas");
        let denied = "service `shop` may not call `mail\\n`: add it to `calls` in [services.shop]";
        assert_eq!(get(&access, Some("mail\n")), denied);
        assert_eq!(get(&Access::default(), None), "a revision that changes nothing starts no sagas");
    }
}
