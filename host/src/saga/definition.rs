//! Definitions: which steps a saga has.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, time::Duration};

/// The most steps of a saga.
pub const MAX_STEPS: usize = 64;
/// The most sagas that a service knows.
pub const MAX_DEFINITIONS: usize = 64;
/// The longest name of a saga or a step, in bytes.
pub const MAX_NAME: usize = 64;
/// The most steps of one saga that wait for events, each of which is kept with the saga.
pub const MAX_EVENTS: usize = 8;

/// How long a wait for a time may be: longer than a call ever may take, as a reminder is sent after weeks.
const MAX_WAIT_MS: u64 = 366 * 24 * 60 * 60 * 1_000;

/// A saga, as its service knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Unique in its service.
    pub name: String,
    /// In their order.
    pub steps: Vec<Step>,
    /// How many milliseconds after its start a saga that is not complete is compensated; `None`: what the manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// One step of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in its saga.
    pub name: String,
    /// Whether it runs side by side with the step before it in the list.
    pub beside: bool,
    /// Whether it has a compensation.
    pub compensates: bool,
    /// Whether its action may be called again where nobody knows whether the last call had its effect.
    pub repeatable: bool,
    /// What it waits for before its action is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// A wait, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For what.
    pub until: Awaited,
    /// After how many milliseconds the step fails; `None`: no sooner than the saga times out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// An event of this topic whose subject is the saga's id.
    Event(String),
    /// So many milliseconds to pass.
    Time(u64),
}

/// Why a component's sagas can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDefinition {
    /// There are more than [`MAX_DEFINITIONS`].
    #[error("the component defines {0} sagas; expected at most {MAX_DEFINITIONS}")]
    TooMany(usize),
    /// A name is none.
    #[error(
        "a saga or step is called `{0}`; expected 1 to {MAX_NAME} characters, of lower-case letters, digits and `-`"
    )]
    Name(String),
    /// Two sagas have one name.
    #[error("two sagas are called `{0}`; give each a name of its own")]
    Twice(String),
    /// Two steps have one name.
    #[error("two steps of saga `{saga}` are called `{step}`; give each a name of its own")]
    StepTwice {
        /// The saga.
        saga: String,
        /// The name.
        step: String,
    },
    /// There are none or more than [`MAX_STEPS`].
    #[error("saga `{saga}` has {steps} steps; expected 1 to {MAX_STEPS}")]
    Steps {
        /// The saga.
        saga: String,
        /// How many it has.
        steps: usize,
    },
    /// The first step is to run beside the step before it.
    #[error("step `{step}` of saga `{saga}` runs beside the step before it, and is the first; make it one of its own")]
    Beside {
        /// The saga.
        saga: String,
        /// The step.
        step: String,
    },
    /// A duration is zero, or longer than may be.
    #[error("{what} of saga `{saga}` is {ms} ms; expected more than 0 and at most {max}")]
    Duration {
        /// The saga.
        saga: String,
        /// Which one.
        what: String,
        /// What it is.
        ms: u64,
        /// What it may be.
        max: u64,
    },
    /// More than [`MAX_EVENTS`] steps wait for events.
    #[error("{steps} steps of saga `{saga}` wait for events; expected at most {MAX_EVENTS}")]
    Events {
        /// The saga.
        saga: String,
        /// How many.
        steps: usize,
    },
}

// === impl Definition ===

impl Definition {
    /// Checks all definitions of a component together.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the first that can't be.
    pub fn check_all(all: &[Self]) -> Result<(), InvalidDefinition> {
        if all.len() > MAX_DEFINITIONS {
            return Err(InvalidDefinition::TooMany(all.len()));
        }
        let mut names = BTreeSet::new();
        for definition in all {
            definition.check()?;
            if !names.insert(&definition.name) {
                return Err(InvalidDefinition::Twice(definition.name.clone()));
            }
        }
        Ok(())
    }

    /// Checks one definition.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), InvalidDefinition> {
        check_name(&self.name)?;
        let saga = || self.name.clone();
        if !(1..=MAX_STEPS).contains(&self.steps.len()) {
            return Err(InvalidDefinition::Steps { saga: saga(), steps: self.steps.len() });
        }
        if let Some(first) = self.steps.first().filter(|first| first.beside) {
            return Err(InvalidDefinition::Beside { saga: saga(), step: first.name.clone() });
        }
        self.check_duration("the timeout", self.timeout_ms, MAX_WAIT_MS)?;
        let mut names = BTreeSet::new();
        for step in &self.steps {
            check_name(&step.name)?;
            if !names.insert(&step.name) {
                return Err(InvalidDefinition::StepTwice { saga: saga(), step: step.name.clone() });
            }
            let Some(Wait { until, timeout_ms }) = &step.wait else { continue };
            self.check_duration(&format!("the wait's timeout of step `{}`", step.name), *timeout_ms, MAX_WAIT_MS)?;
            if let Awaited::Time(ms) = until {
                self.check_duration(&format!("the wait of step `{}`", step.name), Some(*ms), MAX_WAIT_MS)?;
            }
        }
        let steps = self.topics().count();
        if steps > MAX_EVENTS {
            return Err(InvalidDefinition::Events { saga: saga(), steps });
        }
        Ok(())
    }

    /// The topics whose events its steps wait for; one that several wait for as often.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(Step::topic)
    }

    /// The step of this name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    fn check_duration(&self, what: &str, ms: Option<u64>, max: u64) -> Result<(), InvalidDefinition> {
        match ms {
            Some(ms) if ms == 0 || ms > max => {
                Err(InvalidDefinition::Duration { saga: self.name.clone(), what: what.to_owned(), ms, max })
            }
            _ => Ok(()),
        }
    }
}

// === impl Step ===

impl Step {
    /// The topic whose event it waits for.
    pub fn topic(&self) -> Option<&str> {
        match &self.wait.as_ref()?.until {
            Awaited::Event(topic) => Some(topic),
            Awaited::Time(_) => None,
        }
    }
}

// === impl Wait ===

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.until {
            Awaited::Event(topic) => write!(f, "an event of `{topic}`"),
            Awaited::Time(ms) => write!(f, "{:?} to pass", Duration::from_millis(*ms)),
        }
    }
}

fn check_name(name: &str) -> Result<(), InvalidDefinition> {
    let ok = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    // A text of a guest's may be of any length, and is shown to people.
    if ok { Ok(()) } else { Err(InvalidDefinition::Name(name.chars().take(MAX_NAME).collect())) }
}
