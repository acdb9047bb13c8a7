//! `[services.<name>.rollout]`: how a new revision of a service comes to get its calls.

use super::{
    policy::or_refused,
    reader::{Table, Value},
    values::{LONGEST, SHORTEST},
};
use crate::policy::{MAX_STAGES, Mark, RolloutParams, RolloutPolicy, Split, Stage, bounds};

/// What a stage says of the calls that it sends to the new revision; one of them.
const SPLITS: [&str; 4] = ["percent", "header", "cookie", "shadow"];

/// Reads the table; what it does not say is as in `base`.
pub(super) fn read(mut table: Table<'_>, base: &RolloutPolicy) -> RolloutPolicy {
    let base_params = base.params();
    let params = RolloutParams {
        stages: table.or("stages", base_params.stages.clone(), read_stages),
        drain: table.or("drain", base_params.drain, |v| v.duration(SHORTEST..=LONGEST)),
        max_errors: table.or("max-errors", base_params.max_errors, |v| v.integer(bounds::ERROR_POINTS)),
        max_latency: table.or("max-latency", base_params.max_latency, |v| v.integer(bounds::LATENCY_PERCENT)),
        max_traps: table.or("max-traps", base_params.max_traps, |v| v.integer(bounds::TRAPS)),
        min_calls: table.or("min-calls", base_params.min_calls, |v| v.integer(bounds::STAGE_CALLS)),
    };
    let policy = or_refused(&table, RolloutPolicy::try_new(params), || base.clone());
    table.finish();
    policy
}

fn read_stages(value: &Value<'_>) -> Option<Vec<Stage>> {
    let items = value.items("an array of stages such as { percent = 5, for = \"30s\" }")?;
    if items.len() > MAX_STAGES {
        return value.expected(format_args!("at most {MAX_STAGES} stages"));
    }
    items.iter().enumerate().map(|(at, item)| read_stage(item, at)).collect()
}

fn read_stage(item: &Value<'_>, at: usize) -> Option<Stage> {
    if !item.is_table() {
        return item.expected("a stage such as { percent = 5, for = \"30s\" }");
    }
    let mut table = item.nth(at).table()?;
    let given = SPLITS.iter().filter(|split| table.has(split)).count();
    let mark = |value: &Value<'_>, read: fn(&str) -> Result<Mark, crate::policy::InvalidPolicy>| {
        let text = value.str("a mark of requests")?;
        let mark = read(text);
        mark.map_or_else(|refused| value.expected(refused.expected()), |mark| Some(Split::Marked(mark)))
    };
    let percent = table.optional("percent", |v| v.integer(bounds::PERCENT)).map(Split::Percent);
    let header = table.optional("header", |v| mark(v, Mark::header));
    let cookie = table.optional("cookie", |v| mark(v, Mark::cookie));
    let shadow = table.optional("shadow", |v| match v.boolean()? {
        true => Some(Split::Shadow),
        false => v.expected("true, or no `shadow` at all"),
    });
    let time =
        table.required("for", "how long the stage lasts at least, such as \"30s\"", |v| v.duration(SHORTEST..=LONGEST));
    if given != 1 {
        table.report("expected one of `percent`, `header`, `cookie` and `shadow`, and `for`");
    }
    table.finish();
    Some(Stage { split: percent.or(header).or(cookie).or(shadow)?, time: time? })
}
