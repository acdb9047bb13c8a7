//! JSON Merge Patch (RFC 7396), as what a step returns is merged into its saga's state.

use serde_json::{Map, Value};

/// Merges `patch` into `target`. How deep it goes is bounded by how deep JSON is read.
pub(super) fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(&name)),
            Value::Object(patch) => match target.entry(name).or_insert(Value::Null) {
                Value::Object(target) => merge(target, patch),
                other => {
                    let mut object = Map::new();
                    merge(&mut object, patch);
                    *other = Value::Object(object);
                }
            },
            value => drop(target.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of RFC 7396, appendix A, as far as both are objects.
    #[test]
    fn it_does_what_the_standard_shows() {
        for (original, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            // Of section 3.
            (
                r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}"#,
                r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#,
                r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}"#,
            ),
        ] {
            let mut target = object(original);
            merge(&mut target, object(patch));
            assert_eq!(target, object(result), "{original} {patch}");
        }
    }

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn again_changes_nothing_and_others_fields_stay(target in value(), patch in value()) {
            let (Value::Object(target), Value::Object(patch)) = (target, patch) else { return Ok(()) };
            let mut once = target.clone();
            merge(&mut once, patch.clone());
            let mut twice = once.clone();
            merge(&mut twice, patch.clone());
            prop_assert_eq!(&once, &twice);
            for (name, value) in &target {
                if !patch.contains_key(name) {
                    prop_assert_eq!(once.get(name), Some(value));
                }
            }
        }
    }
}
