//! A saga in the hands of its task.

use super::super::{
    MAX_STATE, Outcome, Snapshot, StepCall,
    machine::{Begin, Ended, Machine, Millis, Side, Tries},
    merge::merge,
    rows::{Row, Written},
};
use crate::{
    policy::Fault,
    saga::{Definition, call::Again},
    telemetry::TraceContext,
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::sync::Arc;

pub(in super::super) struct Saga {
    pub number: i64,
    pub version: i64,
    pub saga: Arc<str>,
    pub id: Arc<str>,
    pub started: Millis,
    pub machine: Machine,
    started_at: Arc<str>,
    state: Map<String, Value>,
    /// The same as text.
    bytes: Bytes,
}

// === impl Saga ===

impl Saga {
    /// One that begins.
    pub fn new(number: i64, id: &str, started: Millis, machine: Machine, state: Map<String, Value>) -> Self {
        Self {
            number,
            version: 0,
            saga: machine.definition().name.as_str().into(),
            id: id.into(),
            started,
            started_at: rfc3339(started).into(),
            machine,
            bytes: text(&state),
            state,
        }
    }

    /// One that was written. `None` where it can't be read.
    pub fn read(row: Row, definition: Arc<Definition>, tries: Tries) -> Option<Self> {
        Some(Self {
            number: row.number,
            version: row.version,
            saga: row.saga.into(),
            id: row.id.into(),
            started: row.started,
            started_at: rfc3339(row.started).into(),
            machine: Machine::restore(definition, tries, row.progress, row.heard)?,
            state: serde_json::from_slice(&row.state).ok()?,
            bytes: row.state,
        })
    }

    pub fn state(&self) -> &Bytes {
        &self.bytes
    }

    /// When whoever finds it in the database has to look after it.
    pub fn due(&self) -> Option<Millis> {
        if self.machine.is_calling() { Some(0) } else { self.machine.due() }
    }

    /// What is to be written of it.
    pub fn written(&self, heard: bool) -> Written<'_> {
        let heard = heard.then(|| self.machine.heard());
        Written {
            number: self.number,
            version: self.version,
            status: self.machine.word(),
            progress: self.machine.progress(),
            due: self.due(),
            state: &self.bytes,
            heard,
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let progress = self.machine.progress();
        Snapshot {
            status: progress.status,
            state: self.bytes.clone(),
            reason: progress.reason.clone(),
            started_at: timestamp(self.started),
            ended_at: progress.ended.map(timestamp),
        }
    }

    /// The call that is to be made.
    pub fn call(&self, service: &str, begin: Begin) -> StepCall {
        let step = self.machine.definition().steps.get(begin.step).map(|step| step.name.clone()).unwrap_or_default();
        let (saga, id, progress) = (&self.saga, &self.id, self.machine.progress());
        let (suffix, reason) = match begin.side {
            Side::Act => ("", None),
            Side::Compensate => ("/compensate", progress.reason.as_deref().map(Arc::from)),
        };
        StepCall {
            key: format!("{service}/{saga}/{id}/{step}{suffix}"),
            saga: saga.clone(),
            id: id.clone(),
            step,
            attempt: begin.attempt,
            started_at: self.started_at.clone(),
            state: self.bytes.clone(),
            event: self.machine.event(begin.step).cloned(),
            reason,
            trace: progress.traceparent.map_or_else(TraceContext::root, |trace| trace.child()),
        }
    }

    /// A call has ended.
    pub fn ended(&mut self, step: usize, side: Side, result: Result<Outcome, Fault>, now: Millis) {
        let ended = match result {
            Ok(Outcome::Done(patch)) => match self.merge(&patch) {
                Ok(()) => Ended::Done,
                // It may well be done; but what came of it can't be told to the steps after it.
                Err(reason) => Ended::Unknown(reason),
            },
            Ok(Outcome::Failed(reason)) => Ended::Failed(reason),
            Ok(Outcome::Retry(Again { reason, after })) => Ended::Retry(reason, after),
            Err(fault) if fault.kind().nothing_begun() => Ended::NotBegun(fault.to_string(), fault.retry_after()),
            Err(fault) => Ended::Unknown(fault.to_string()),
        };
        self.machine.ended(step, side, ended, now);
    }

    fn merge(&mut self, patch: &[u8]) -> Result<(), String> {
        if patch == b"{}" {
            return Ok(());
        }
        if patch.len() > MAX_STATE {
            return Err(format!("its result has {} bytes; expected at most {MAX_STATE}", patch.len()));
        }
        let patch: Map<String, Value> =
            serde_json::from_slice(patch).map_err(|error| format!("its result is no JSON object: {error}"))?;
        merge(&mut self.state, patch);
        let merged = text(&self.state);
        if merged.len() > MAX_STATE {
            self.state = serde_json::from_slice(&self.bytes).unwrap_or_default();
            return Err(format!("with its result the state has {} bytes; expected at most {MAX_STATE}", merged.len()));
        }
        self.bytes = merged;
        Ok(())
    }
}

pub(in super::super) fn timestamp(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or_default()
}

/// RFC 3339 in UTC, to the millisecond.
pub(in super::super) fn rfc3339(at: Millis) -> String {
    format!("{:.3}", timestamp(at))
}

fn text(state: &Map<String, Value>) -> Bytes {
    // Strings for keys: it can't fail.
    serde_json::to_vec(state).unwrap_or_default().into()
}
