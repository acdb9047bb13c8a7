//! Whether what a component says of its sagas can be gone by.

use super::binding::{WitAwaited, WitDefinition, WitStep};
use std::{collections::BTreeSet, fmt::Display};

/// The most sagas that a component may have.
const MOST_SAGAS: usize = 256;
/// The most steps of one.
const MOST_STEPS: usize = 64;
/// The longest name of a saga or a step.
const LONGEST_NAME: usize = 64;
/// The longest that a saga may take, or wait, in milliseconds: ten years.
const LONGEST_MS: u64 = 10 * 366 * 24 * 3600 * 1000;

/// Everything that is wrong with the sagas of a component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidSagas(Vec<String>);

/// Checks what the component of `service` says of its sagas, which may await the topics `awaits`.
///
/// # Errors
///
/// All that is wrong with them.
pub fn check(service: &str, definitions: &[WitDefinition], awaits: &[String]) -> Result<(), InvalidSagas> {
    let mut wrong = Vec::new();
    if definitions.len() > MOST_SAGAS {
        wrong.push(format!("it has {} sagas: expected {MOST_SAGAS} at most", definitions.len()));
    }
    let mut names = BTreeSet::new();
    for definition in definitions.iter().take(MOST_SAGAS) {
        let WitDefinition { name, steps, timeout_ms } = definition;
        let saga = format!("saga `{}`", shown(name));
        let mut say = |what: &dyn Display| wrong.push(format!("{saga}: {what}"));
        if !is_name(name) {
            say(&expected_name("its name"));
        } else if !names.insert(name) {
            say(&"there are two of this name");
        }
        if let Some(ms) = timeout_ms
            && !(1..=LONGEST_MS).contains(ms)
        {
            say(&format_args!("it times out after {ms} ms: expected 1 ms to ten years"));
        }
        if !(1..=MOST_STEPS).contains(&steps.len()) {
            say(&format_args!("it has {} steps: expected 1 to {MOST_STEPS}", steps.len()));
        }
        if steps.first().is_some_and(|step| step.beside) {
            let name = shown(&steps[0].name);
            say(&format_args!("step `{name}` is the first, and runs beside the one before: there is none"));
        }
        let mut names = BTreeSet::new();
        for step in steps.iter().take(MOST_STEPS) {
            let mut say = |what: &dyn Display| say(&format_args!("step `{}`: {what}", shown(&step.name)));
            if !is_name(&step.name) {
                say(&expected_name("its name"));
            } else if !names.insert(&step.name) {
                say(&"there are two of this name");
            }
            check_wait(service, step, awaits, &mut say);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(InvalidSagas(wrong)) }
}

fn check_wait(service: &str, step: &WitStep, awaits: &[String], say: &mut dyn FnMut(&dyn Display)) {
    let Some(wait) = &step.wait else { return };
    if wait.timeout_ms.is_some_and(|ms| !(1..=LONGEST_MS).contains(&ms)) {
        say(&"its wait times out at once or later than in ten years: expected 1 ms to ten years");
    }
    match &wait.until {
        WitAwaited::Time(ms) if *ms > LONGEST_MS => {
            say(&format_args!("it waits for {ms} ms: expected ten years at most"));
        }
        WitAwaited::Event(topic) if !awaits.contains(topic) => {
            let topic = shown(topic);
            say(&format_args!(
                "it waits for an event of `{topic}`, which the service may not await: add it to `awaits` in \
                 [services.{service}]"
            ));
        }
        WitAwaited::Time(_) | WitAwaited::Event(_) => {}
    }
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain)
}

fn expected_name(what: &str) -> String {
    format!("expected {what} to be 1 to {LONGEST_NAME} characters of a-z, 0-9 and `-`")
}

/// A guest's text, as an error shows it.
fn shown(text: &str) -> String {
    text.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::binding::WitWait, *};

    fn step(name: &str) -> WitStep {
        WitStep { name: name.into(), beside: false, compensates: true, repeatable: true, wait: None }
    }

    fn saga(name: &str, steps: Vec<WitStep>) -> WitDefinition {
        WitDefinition { name: name.into(), steps, timeout_ms: None }
    }

    fn said(definitions: &[WitDefinition]) -> String {
        let awaits = ["payment.settled".to_owned()];
        check("shop", definitions, &awaits).map_or_else(|wrong| wrong.to_string(), |()| "nothing".into())
    }

    #[test]
    fn what_can_be_gone_by_is_taken() {
        let until = WitAwaited::Event("payment.settled".into());
        let waits = WitStep { wait: Some(WitWait { until, timeout_ms: Some(1) }), ..step("confirm") };
        let beside = WitStep { beside: true, ..step("reserve") };
        assert_eq!(said(&[saga("checkout", vec![step("order"), beside, waits]), saga("x-1", vec![step("order")])]), "nothing");
        assert_eq!(said(&[]), "nothing");
    }

    #[test]
    fn everything_wrong_is_told_with_its_saga_and_step() {
        let wait = |until| Some(WitWait { until, timeout_ms: Some(0) });
        let late = WitStep { wait: wait(WitAwaited::Time(u64::MAX)), ..step("late") };
        let strange = WitStep { wait: wait(WitAwaited::Event("order.created".into())), ..step("strange") };
        let first = WitStep { beside: true, ..step("first") };
        let sagas = [
            saga("Checkout\n", vec![first, step("first"), late, strange]),
            WitDefinition { timeout_ms: Some(0), ..saga("none", Vec::new()) },
            saga("none", (0..65).map(|n| step(&format!("s{n}"))).collect()),
        ];
        let wait = "its wait times out at once or later than in ten years: expected 1 ms to ten years";
        let expected = [
            "saga `Checkout\\n`: expected its name to be 1 to 64 characters of a-z, 0-9 and `-`",
            "saga `Checkout\\n`: step `first` is the first, and runs beside the one before: there is none",
            "saga `Checkout\\n`: step `first`: there are two of this name",
            &format!("saga `Checkout\\n`: step `late`: {wait}"),
            "saga `Checkout\\n`: step `late`: it waits for 18446744073709551615 ms: expected ten years at most",
            &format!("saga `Checkout\\n`: step `strange`: {wait}"),
            "saga `Checkout\\n`: step `strange`: it waits for an event of `order.created`, which the service may not await: \
             add it to `awaits` in [services.shop]",
            "saga `none`: it times out after 0 ms: expected 1 ms to ten years",
            "saga `none`: it has 0 steps: expected 1 to 64",
            "saga `none`: there are two of this name",
            "saga `none`: it has 65 steps: expected 1 to 64",
        ];
        assert_eq!(said(&sagas), expected.join("\n"));
    }
}
