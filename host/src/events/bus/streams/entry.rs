//! Events as entries of a stream: one field for each CloudEvents attribute, and `data`.

use crate::events::{
    Event, InvalidEvent,
    event::{MAX_ID, check_content_type, check_data, check_subject},
};
use ::redis::{Cmd, Value, from_redis_value};
use bytes::Bytes;
use std::{borrow::Cow, collections::HashMap, sync::Arc};

const SPECVERSION: &str = "1.0";

/// Adds the fields of an event to an `XADD`.
pub(super) fn encode(event: &Event, add: &mut Cmd) {
    add.arg("specversion").arg(SPECVERSION);
    add.arg("id").arg(&event.id);
    add.arg("source").arg(&*event.source);
    add.arg("type").arg(&*event.topic);
    add.arg("time").arg(event.rfc3339());
    add.arg("datacontenttype").arg(&*event.datacontenttype);
    if let Some(subject) = &event.subject {
        add.arg("subject").arg(subject);
    }
    if let Some(trace) = &event.traceparent {
        add.arg("traceparent").arg(trace.to_string());
    }
    add.arg("data").arg(&*event.data);
}

/// Reads the fields of an entry. Others may write to the stream too, so everything is checked.
pub(super) fn decode(topic: &Arc<str>, fields: Option<Value>) -> Result<Event, InvalidEvent> {
    let fields = fields.and_then(|fields| from_redis_value(fields).ok());
    decode_fields(topic, fields.ok_or(InvalidEvent::Attribute("data"))?)
}

/// The same for fields by their names.
pub(super) fn decode_fields(topic: &Arc<str>, mut fields: HashMap<Vec<u8>, Vec<u8>>) -> Result<Event, InvalidEvent> {
    let attribute = InvalidEvent::Attribute;
    let mut text = |name: &'static str| match fields.remove(name.as_bytes()) {
        Some(value) => String::from_utf8(value).map(Some).map_err(|_| attribute(name)),
        None => Ok(None),
    };
    if text("specversion")?.as_deref() != Some(SPECVERSION) {
        return Err(attribute("specversion"));
    }
    if text("type")?.as_deref() != Some(&**topic) {
        return Err(attribute("type"));
    }
    let mut name = |field| text(field)?.filter(|it| (1..=MAX_ID).contains(&it.len())).ok_or(attribute(field));
    let (id, source) = (name("id")?, name("source")?.into());
    let time = text("time")?.and_then(|it| it.parse().ok()).ok_or(attribute("time"))?;
    let subject = text("subject")?;
    check_subject(subject.as_deref())?;
    let datacontenttype = text("datacontenttype")?.map_or(Cow::Borrowed("application/json"), Cow::Owned);
    check_content_type(&datacontenttype)?;
    // A trace context that can't be read is dropped, as the W3C recommendation asks.
    let traceparent = text("traceparent")?.and_then(|it| it.parse().ok());
    let data = Bytes::from(fields.remove(b"data".as_slice()).unwrap_or_default());
    check_data(&data)?;
    Ok(Event { topic: Arc::clone(topic), id, source, subject, time, datacontenttype, traceparent, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::{Arg, cmd};
    use proptest::prelude::*;

    fn fields(command: &Cmd) -> Vec<Value> {
        let args = command.args_iter().skip(1);
        args.map(|arg| match arg {
            Arg::Simple(bytes) => Value::BulkString(bytes.to_vec()),
            other => panic!("unexpected argument {other:?}"),
        })
        .collect()
    }

    fn event() -> Event {
        let mut event = Event::from_channel("order.created".into(), r#"{"orderId":"1"}"#.into()).unwrap();
        event.time = "2026-01-02T03:04:05.678Z".parse().unwrap();
        event
    }

    #[test]
    fn what_is_missing_or_of_another_topic_is_named() {
        let mut add = cmd("XADD");
        encode(&event(), &mut add);
        let complete = fields(&add);
        for (at, name) in ["specversion", "id", "source", "type", "time"].into_iter().enumerate() {
            let mut rest = complete.clone();
            rest.drain(2 * at..2 * at + 2);
            let refused = decode(&"order.created".into(), Some(Value::Array(rest)));
            assert_eq!(refused, Err(InvalidEvent::Attribute(name)));
        }
        let refused = decode(&"order.confirmed".into(), Some(Value::Array(complete)));
        assert_eq!(refused, Err(InvalidEvent::Attribute("type")));
        assert!(decode(&"order.created".into(), None).is_err());
    }

    proptest! {
        #[test]
        fn an_event_survives_the_round_trip(
            subject in proptest::option::of("[a-z0-9é]{1,40}"),
            data: Vec<u8>,
            traced: bool,
        ) {
            let traceparent = traced.then(crate::telemetry::TraceContext::root);
            let event = Event { subject, data: data.into(), traceparent, ..event() };
            let mut add = cmd("XADD");
            encode(&event, &mut add);
            prop_assert_eq!(decode(&event.topic, Some(Value::Array(fields(&add)))), Ok(event));
        }

        #[test]
        fn no_entry_breaks_the_decoder(bytes: Vec<(Vec<u8>, Vec<u8>)>) {
            let flat = bytes.into_iter().flat_map(|(k, v)| [Value::BulkString(k), Value::BulkString(v)]).collect();
            prop_assert!(decode(&"a".into(), Some(Value::Array(flat))).is_err());
        }
    }
}
