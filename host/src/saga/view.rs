//! How a saga stands, for those who started it and for operators.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// How a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It goes on, or waits.
    Running,
    /// A step failed, and the steps before are being taken back.
    Compensating,
    /// All steps are done.
    Completed,
    /// All that was begun is taken back.
    Compensated,
}

/// A saga at one moment, as `wharf:saga/sagas` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How it stands.
    pub status: Status,
    /// Its state, a JSON object.
    pub state: Bytes,
    /// Why it is, or was, compensated.
    pub reason: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Which sagas are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this definition.
    pub saga: Option<String>,
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Only those that come after this mark, which the page before ended with.
    pub after: Option<i64>,
    /// How many at most; no more than 1,000 in any case.
    pub limit: usize,
}

/// Some of a service's sagas, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The sagas.
    pub sagas: Vec<Summary>,
    /// What the next page begins after, where there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// A saga in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its place in lists, the newest's the largest: what the next page begins after where this is the last of one.
    #[serde(default)]
    pub place: i64,
    /// The service.
    pub service: String,
    /// The name of its definition.
    pub saga: String,
    /// Its id.
    pub id: String,
    /// How it stands.
    pub status: Status,
    /// Whether it needs somebody: a compensation keeps failing, or the revision does not know its steps.
    pub stuck: bool,
    /// Whether it is that the revision that serves lacks a step of it.
    #[serde(default)]
    pub halted: bool,
    /// The steps that it is at.
    pub at: Vec<String>,
    /// Why it is, or was, compensated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong last in what it is at, or why it is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was started, RFC 3339 in UTC, as all times here.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// All that is known of one saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// What is in lists too.
    #[serde(flatten)]
    pub summary: Summary,
    /// The id of the trace that all its calls belong to: that of whatever started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// When it is compensated unless it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_out_at: Option<String>,
    /// When there is something to do for it; `None` while something is done, or where only an event leads on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// Its state.
    pub state: Value,
    /// Its steps, in their order.
    pub steps: Vec<StepView>,
}

/// A step of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Its name.
    pub step: String,
    /// How it stands: `pending`, `waiting`, `ready`, `acting`, `done`, `failed`, `unknown`, `compensating`, `compensated` or
    /// `skipped`.
    pub status: String,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// How often its action was tried.
    pub attempts: u32,
    /// How often its compensation was tried.
    pub compensations: u32,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_at: Option<String>,
    /// When its action was called first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<String>,
    /// When its action ended for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// When it was compensated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensated_at: Option<String>,
}

// === impl Status ===

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Running, Self::Compensating, Self::Completed, Self::Compensated];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing more happens to it.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
