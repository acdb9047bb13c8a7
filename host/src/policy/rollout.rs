//! How a new revision comes to get the calls of the old one: by stages, and under which conditions it goes on.
//!
//! A rollout is a list of stages. In each of them some calls go to the new revision, for a while at least, and what comes
//! of them is held against what comes of the others; see [`judge`](super::judge). After the last one, or where there is
//! none, it gets all of them. As progressive delivery has it in [Flagger] and [Argo Rollouts], without their cluster.
//!
//! [Flagger]: https://docs.flagger.app/usage/deployment-strategies
//! [Argo Rollouts]: https://argo-rollouts.readthedocs.io/en/stable/features/canary/

use super::{InvalidPolicy, bounds, invalid};
use std::{fmt, time::Duration};

/// The most stages of a rollout.
pub const MAX_STAGES: usize = 32;
/// The longest name or value of a mark, in bytes.
const MAX_MARK: usize = 256;

/// Which calls go to a new revision while it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// So many in a hundred. All calls of one trace go the same way, be they requests, typed calls or events, and whoever
    /// has the new revision keeps it when the share grows.
    Percent(u32),
    /// Those of requests that carry this, with all typed calls and events that come of them.
    Marked(Mark),
    /// None. Of requests with a safe method it gets a copy, whose answer is compared and thrown away.
    Shadow,
}

/// What a request carries that is to meet a new revision before others do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A header with this name, in lower case, and this value.
    Header(String, String),
    /// A cookie with this name and this value.
    Cookie(String, String),
}

/// A part of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which calls the new revision gets.
    pub split: Split,
    /// How long it lasts at least.
    pub time: Duration,
}

/// The parts of a [`RolloutPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutParams {
    /// What comes before the new revision gets all calls; empty: it gets them at once.
    pub stages: Vec<Stage>,
    /// How long calls may stay under way on a revision that gets no more of them. What is left then is ended.
    pub drain: Duration,
    /// By how many percent points the share of calls that fail may exceed that of the old revision.
    pub max_errors: u32,
    /// How long the slowest hundredth of its calls may take, in percent of what it takes at the old revision.
    pub max_latency: u32,
    /// How many of its calls may meet a trap, where the old revision has none.
    pub max_traps: u32,
    /// How many calls a stage by percent must have seen before the next one begins.
    pub min_calls: u32,
}

/// How a new revision of a service comes to get its calls.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RolloutPolicy(RolloutParams);

// === impl Stage ===

impl Stage {
    /// What is said of one that does not say which calls it means, or says it twice.
    pub fn ambiguous() -> InvalidPolicy {
        InvalidPolicy::new("stages", "one of `percent`, `header`, `cookie` and `shadow` in each", "none or several")
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.split {
            Split::Percent(percent) => write!(f, "{percent} %"),
            Split::Marked(Mark::Header(name, value)) => write!(f, "header {name}: {value}"),
            Split::Marked(Mark::Cookie(name, value)) => write!(f, "cookie {name}={value}"),
            Split::Shadow => f.write_str("shadow"),
        }
    }
}

// === impl Mark ===

impl Mark {
    /// Reads `NAME: VALUE`.
    ///
    /// # Errors
    ///
    /// When it is no header.
    pub fn header(text: &str) -> Result<Self, InvalidPolicy> {
        let refused = || InvalidPolicy::new("header", "a header such as `x-preview: yes`", quoted(text));
        let (name, value) = text.split_once(':').ok_or_else(refused)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !is_token(&name) || !is_value(value) { Err(refused()) } else { Ok(Self::Header(name, value.to_owned())) }
    }

    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    ///
    /// When it is no cookie.
    pub fn cookie(text: &str) -> Result<Self, InvalidPolicy> {
        let refused = || InvalidPolicy::new("cookie", "a cookie such as `preview=yes`", quoted(text));
        let (name, value) = text.split_once('=').ok_or_else(refused)?;
        let (name, value) = (name.trim(), value.trim());
        let whole = is_token(name) && is_value(value) && !value.contains([';', ',', ' ', '"', '\\']);
        if whole { Ok(Self::Cookie(name.to_owned(), value.to_owned())) } else { Err(refused()) }
    }
}

fn quoted(text: &str) -> String {
    format!("`{}`", text.chars().take(MAX_MARK).collect::<String>().escape_debug())
}

/// A token as RFC 9110 has it, section 5.6.2.
fn is_token(text: &str) -> bool {
    (1..=MAX_MARK).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_value(text: &str) -> bool {
    (1..=MAX_MARK).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

// === impl RolloutPolicy ===

impl RolloutPolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When a number is out of its bounds, there are more than [`MAX_STAGES`], or a stage by percent has no more than the
    /// one before it.
    pub fn try_new(params: RolloutParams) -> Result<Self, InvalidPolicy> {
        if params.stages.len() > MAX_STAGES {
            return Err(InvalidPolicy::new("stages", format!("at most {MAX_STAGES}"), params.stages.len()));
        }
        let mut before = 0;
        for stage in &params.stages {
            invalid::check_duration("stages", stage.time)?;
            let Split::Percent(percent) = stage.split else { continue };
            invalid::check_count("stages", percent, bounds::PERCENT)?;
            if percent <= before {
                let expected = format!("more than the {before} % of the stage before");
                return Err(InvalidPolicy::new("stages", expected, format_args!("{percent} %")));
            }
            before = percent;
        }
        invalid::check_duration("drain", params.drain)?;
        invalid::check_count("max-errors", params.max_errors, bounds::ERROR_POINTS)?;
        invalid::check_count("max-latency", params.max_latency, bounds::LATENCY_PERCENT)?;
        invalid::check_count("max-traps", params.max_traps, bounds::TRAPS)?;
        invalid::check_count("min-calls", params.min_calls, bounds::STAGE_CALLS)?;
        Ok(Self(params))
    }

    /// The same without stages: a new revision gets all calls at once.
    #[must_use]
    pub fn at_once(&self) -> Self {
        Self(RolloutParams { stages: Vec::new(), ..self.0.clone() })
    }

    /// Its parts.
    pub fn params(&self) -> &RolloutParams {
        &self.0
    }
}

impl Default for RolloutParams {
    /// At once, with half a minute to drain; a stage that is added goes on after 20 calls at least, with at most one more in
    /// a hundred that fails, no trap, and the slowest hundredth at most twice as slow.
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            drain: Duration::from_secs(30),
            max_errors: 1,
            max_latency: 200,
            max_traps: 0,
            min_calls: 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(splits: &[Split]) -> Result<RolloutPolicy, InvalidPolicy> {
        let stages = splits.iter().map(|split| Stage { split: split.clone(), time: Duration::from_secs(1) });
        RolloutPolicy::try_new(RolloutParams { stages: stages.collect(), ..RolloutParams::default() })
    }

    #[test]
    fn a_share_grows_from_stage_to_stage() {
        let mark = || Split::Marked(Mark::Header("x".into(), "y".into()));
        assert!(stages(&[Split::Shadow, mark(), Split::Percent(1), Split::Percent(100)]).is_ok());
        for wrong in [[Split::Percent(5), Split::Percent(5)], [Split::Percent(50), Split::Percent(5)]] {
            let refused = stages(&wrong).unwrap_err().to_string();
            assert!(refused.starts_with("`stages`: expected more than the "), "{refused}");
        }
        for percent in [0, 101] {
            assert!(stages(&[Split::Percent(percent)]).is_err());
        }
        assert!(stages(&vec![Split::Shadow; MAX_STAGES + 1]).is_err());
    }

    #[test]
    fn marks_are_read_or_refused() {
        assert_eq!(Mark::header("X-Preview:  yes "), Ok(Mark::Header("x-preview".into(), "yes".into())));
        assert_eq!(Mark::cookie("preview=yes"), Ok(Mark::Cookie("preview".into(), "yes".into())));
        for wrong in ["", "x", ": y", "a b: c", "x:", "x: \u{7}", "x: ä"] {
            assert!(Mark::header(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "x", "=y", "a b=c", "x=", "x=a;b", "x=ä"] {
            assert!(Mark::cookie(wrong).is_err(), "{wrong:?}");
        }
    }
}
