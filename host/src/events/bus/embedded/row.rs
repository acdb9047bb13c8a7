//! Events as rows.

use crate::events::Event;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Row, types::ValueRef};
use std::{borrow::Cow, sync::Arc};

/// What [`read`] takes, beginning with the column it is told. `e` is the table of events, `s` that of sources.
pub(super) const COLUMNS: &str = "e.id, s.name, e.subject, e.time, e.datacontenttype, e.traceparent, e.data";

const JSON: &str = "application/json";

/// The event in the columns from `first` on. People may have had their hands in the file, and one odd value must not
/// stop a subscription for ever: what is not as it should be is read as well as can be.
pub(super) fn read(row: &Row<'_>, first: usize, topic: &Arc<str>) -> rusqlite::Result<Event> {
    Ok(Event {
        topic: Arc::clone(topic),
        id: text(row.get_ref(first)?).unwrap_or_default(),
        source: text(row.get_ref(first + 1)?).unwrap_or_default().into(),
        subject: text(row.get_ref(first + 2)?),
        time: time(row.get_ref(first + 3)?.as_i64().unwrap_or_default()),
        datacontenttype: text(row.get_ref(first + 4)?).map_or(Cow::Borrowed(JSON), Cow::Owned),
        traceparent: text(row.get_ref(first + 5)?).and_then(|it| it.parse().ok()),
        data: Bytes::copy_from_slice(row.get_ref(first + 6)?.as_bytes().unwrap_or_default()),
    })
}

/// What stands in the column for the media type: nothing for the usual one.
pub(super) fn content_type(event: &Event) -> Option<&str> {
    (event.datacontenttype != JSON).then_some(&*event.datacontenttype)
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

fn text(value: ValueRef<'_>) -> Option<String> {
    value.as_bytes().ok().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
