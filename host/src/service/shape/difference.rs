//! What is different between two shapes, down to the parameter, the field and the case.
//!
//! Types of components have no subtypes: what is called must have the very types that its caller was built with, so any
//! difference in a function that somebody calls is one too many. Functions and interfaces that come in addition are none.

use super::{Interfaces, Shape, Signature, untransferable, wit};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};
use wasmtime::component::types::{ComponentFunc, Type};

/// A place where two types of a function are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where: `parameter `user`, field `email``.
    pub place: String,
    /// What is there in the one, as WIT; `None`: nothing.
    pub old: Option<String>,
    /// What is there in the other.
    pub new: Option<String>,
}

/// What becomes of the functions of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum InterfaceChange {
    /// A function that was not there.
    Added {
        /// Its interface.
        interface: String,
        /// Its name.
        function: String,
        /// Its type, as WIT.
        signature: String,
    },
    /// One that is there no more.
    Removed {
        /// Its interface.
        interface: String,
        /// Its name.
        function: String,
        /// Its type, as WIT.
        signature: String,
    },
    /// One that has another type.
    Changed {
        /// Its interface.
        interface: String,
        /// Its name.
        function: String,
        /// Where its type is another.
        differences: Vec<Difference>,
    },
}

/// What is different between two components of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeChanges {
    /// What it offers.
    pub exports: Vec<InterfaceChange>,
    /// What it needs.
    pub imports: Vec<InterfaceChange>,
}

// === impl ShapeChanges ===

impl ShapeChanges {
    /// From one shape to another.
    pub fn between(old: &Shape, new: &Shape) -> Self {
        Self { exports: changes(&old.exports, &new.exports), imports: changes(&old.imports, &new.imports) }
    }
}

fn changes(old: &Interfaces, new: &Interfaces) -> Vec<InterfaceChange> {
    let names = |all: &Interfaces| {
        let functions = all.iter().flat_map(|(interface, functions)| functions.keys().map(move |it| (interface, it)));
        functions.map(|(interface, function)| (interface.clone(), function.clone())).collect::<BTreeSet<_>>()
    };
    let find = |all: &Interfaces, (interface, function): &(String, String)| all.get(interface)?.get(function).cloned();
    let mut found = Vec::new();
    for name in names(old).union(&names(new)) {
        let (interface, function) = name.clone();
        let signature = |ty: &ComponentFunc| Signature(ty).to_string();
        match (find(old, name), find(new, name)) {
            (None, Some(ty)) => found.push(InterfaceChange::Added { interface, function, signature: signature(&ty) }),
            (Some(ty), None) => found.push(InterfaceChange::Removed { interface, function, signature: signature(&ty) }),
            (Some(old), Some(new)) => {
                let differences = between(&old, &new);
                if !differences.is_empty() {
                    found.push(InterfaceChange::Changed { interface, function, differences });
                }
            }
            (None, None) => {}
        }
    }
    found
}

/// Where the types of two functions are not the same. Whether one is async is each side's own business.
pub fn between(old: &ComponentFunc, new: &ComponentFunc) -> Vec<Difference> {
    let mut found = Found::default();
    // NB: wasmtime can't compare resources of two components, and panics.
    if has_resources(old) || has_resources(new) {
        let (old, new) = (Signature(old).types(), Signature(new).types());
        if old != new {
            found.push("its type".into(), Some(old), Some(new));
        }
        return found.0;
    }
    let mut params = (old.params(), new.params());
    for at in 1.. {
        match (params.0.next(), params.1.next()) {
            (None, None) => break,
            (Some((name, old)), Some((other, new))) => {
                let place = format!("parameter `{name}`");
                if name != other {
                    found.push(format!("parameter {at}, name"), Some(name.to_owned()), Some(other.to_owned()));
                }
                found.types(&place, &old, &new);
            }
            (old, new) => {
                let name = old.as_ref().or(new.as_ref()).map_or_else(|| at.to_string(), |(name, _)| (*name).to_owned());
                let show = |it: Option<(&str, Type)>| it.map(|(_, ty)| wit(&ty));
                found.push(format!("parameter `{name}`"), show(old), show(new));
            }
        }
    }
    let mut results = (old.results(), new.results());
    match (results.0.next(), results.1.next()) {
        (Some(old), Some(new)) => found.types("result", &old, &new),
        (None, None) => {}
        (old, new) => found.push("result".into(), old.as_ref().map(wit), new.as_ref().map(wit)),
    }
    found.0
}

/// Whether its type has something in it that can't pass from one component to another.
fn has_resources(function: &ComponentFunc) -> bool {
    let types = function.params().map(|(_, ty)| ty).chain(function.results());
    types.into_iter().any(|ty| untransferable(&ty).is_some())
}

#[derive(Default)]
struct Found(Vec<Difference>);

// === impl Found ===

impl Found {
    fn push(&mut self, place: String, old: Option<String>, new: Option<String>) {
        self.0.push(Difference { place, old, new });
    }

    fn types(&mut self, place: &str, old: &Type, new: &Type) {
        if old == new {
            return;
        }
        let before = self.0.len();
        match (old, new) {
            (Type::Record(a), Type::Record(b)) => {
                let fields = |record: &wasmtime::component::types::Record| {
                    record.fields().map(|field| (field.name.to_owned(), Some(field.ty))).collect::<Vec<_>>()
                };
                self.members(place, "field", &fields(a), &fields(b));
            }
            (Type::Variant(a), Type::Variant(b)) => {
                let cases = |variant: &wasmtime::component::types::Variant| {
                    variant.cases().map(|case| (case.name.to_owned(), case.ty)).collect::<Vec<_>>()
                };
                self.members(place, "case", &cases(a), &cases(b));
            }
            (Type::Enum(a), Type::Enum(b)) => self.names(place, "case", a.names(), b.names()),
            (Type::Flags(a), Type::Flags(b)) => self.names(place, "flag", a.names(), b.names()),
            (Type::List(a), Type::List(b)) => self.types(&format!("{place}, element"), &a.ty(), &b.ty()),
            (Type::Option(a), Type::Option(b)) => self.types(&format!("{place}, `some`"), &a.ty(), &b.ty()),
            (Type::Tuple(a), Type::Tuple(b)) if a.types().len() == b.types().len() => {
                for (at, (a, b)) in a.types().zip(b.types()).enumerate() {
                    self.types(&format!("{place}, part {}", at + 1), &a, &b);
                }
            }
            (Type::Result(a), Type::Result(b)) => {
                for (case, a, b) in [("ok", a.ok(), b.ok()), ("err", a.err(), b.err())] {
                    let place = format!("{place}, `{case}`");
                    match (&a, &b) {
                        (Some(a), Some(b)) => self.types(&place, a, b),
                        (None, None) => {}
                        (a, b) => self.push(place, a.as_ref().map(wit), b.as_ref().map(wit)),
                    }
                }
            }
            _ => {}
        }
        if self.0.len() == before {
            self.push(place.to_owned(), Some(wit(old)), Some(wit(new)));
        }
    }

    /// Fields or cases, each by its name; their order counts as well.
    fn members(&mut self, place: &str, what: &str, old: &[(String, Option<Type>)], new: &[(String, Option<Type>)]) {
        let words = |(name, ty): &(String, Option<Type>)| match ty {
            Some(ty) if what == "case" => format!("{name}({})", wit(ty)),
            Some(ty) => format!("{name}: {}", wit(ty)),
            None => name.clone(),
        };
        let before = self.0.len();
        for member in old {
            let place = format!("{place}, {what} `{}`", member.0);
            match new.iter().find(|(name, _)| *name == member.0) {
                None => self.push(place, Some(words(member)), None),
                Some(other) => match (&member.1, &other.1) {
                    (Some(old), Some(new)) => self.types(&place, old, new),
                    (None, None) => {}
                    _ => self.push(place, Some(words(member)), Some(words(other))),
                },
            }
        }
        for member in new.iter().filter(|(name, _)| !old.iter().any(|(other, _)| other == name)) {
            self.push(format!("{place}, {what} `{}`", member.0), None, Some(words(member)));
        }
        if self.0.len() == before {
            let order =
                |all: &[(String, Option<Type>)]| all.iter().map(|it| it.0.as_str()).collect::<Vec<_>>().join(", ");
            self.push(format!("{place}, order of {what}s"), Some(order(old)), Some(order(new)));
        }
    }

    fn names<'a>(
        &mut self,
        place: &str,
        what: &str,
        old: impl Iterator<Item = &'a str>,
        new: impl Iterator<Item = &'a str>,
    ) {
        let all = |names: &mut dyn Iterator<Item = &'a str>| names.map(|it| (it.to_owned(), None)).collect::<Vec<_>>();
        let (mut old, mut new) = (old, new);
        self.members(place, what, &all(&mut old), &all(&mut new));
    }
}

// === impl Difference ===

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, old, new } = self;
        match (old, new) {
            (Some(old), Some(new)) => write!(f, "{place}: expected `{old}`, found `{new}`"),
            (Some(old), None) => write!(f, "{place}: expected `{old}`, found nothing"),
            (None, Some(new)) => write!(f, "{place}: expected nothing, found `{new}`"),
            (None, None) => f.write_str(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;
    use wasmtime::{Engine, component::Component};

    static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

    /// The shape of a component that imports `f` of this type.
    fn shape(types: &str, function: &str) -> Shape {
        let wat = format!(
            r#"(component (import "a:b/c" (instance
                {types}
                (export "f" (func {function}))
            )))"#
        );
        Shape::of(&Component::new(&ENGINE, wat).unwrap_or_else(|error| panic!("{error:#}")))
    }

    fn differences(old: (&str, &str), new: (&str, &str)) -> Vec<String> {
        let (old, new) = (shape(old.0, old.1), shape(new.0, new.1));
        let function = |shape: &Shape| shape.imports["a:b/c"]["f"].clone();
        between(&function(&old), &function(&new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_exact_place_is_named() {
        let record = |fields: &str| format!(r#"(type $r' (record {fields})) (export "r" (type $r (eq $r')))"#);
        let old = record(r#"(field "name" string) (field "email" string)"#);
        let new = record(r#"(field "name" string) (field "email" (option string)) (field "age" u32)"#);
        let function = r#"(param "user" $r) (result (result $r (error string)))"#;
        assert_eq!(
            differences((&old, function), (&new, function)),
            [
                "parameter `user`, field `email`: expected `string`, found `option<string>`",
                "parameter `user`, field `age`: expected nothing, found `age: u32`",
                "result, `ok`, field `email`: expected `string`, found `option<string>`",
                "result, `ok`, field `age`: expected nothing, found `age: u32`",
            ]
        );
        assert_eq!(differences((&old, function), (&old, function)), [""; 0]);
    }

    #[test]
    fn cases_parameters_and_results_are_named() {
        let variant = |cases: &str| format!(r#"(type $v' (variant {cases})) (export "v" (type $v (eq $v')))"#);
        let old = variant(r#"(case "gone") (case "other" string)"#);
        let new = variant(r#"(case "gone" u8) (case "denied")"#);
        assert_eq!(
            differences(
                (&old, r#"(param "id" string) (result $v)"#),
                (&new, r#"(param "id" u64) (param "at" u8) (result $v)"#)
            ),
            [
                "parameter `id`: expected `string`, found `u64`",
                "parameter `at`: expected nothing, found `u8`",
                "result, case `gone`: expected `gone`, found `gone(u8)`",
                "result, case `other`: expected `other(string)`, found nothing",
                "result, case `denied`: expected nothing, found `denied`",
            ]
        );
        assert_eq!(
            differences(("", r#"(result (list (tuple u8 u8)))"#), ("", r#"(result (list (tuple u8 s8)))"#)),
            ["result, element, part 2: expected `u8`, found `s8`"]
        );
        assert_eq!(
            differences(("", r#"(param "id" u8)"#), ("", r#"(param "key" u8)"#)),
            ["parameter 1, name: expected `id`, found `key`"]
        );
        assert_eq!(differences(("", r#"(result u8)"#), ("", "")), ["result: expected `u8`, found nothing"]);
    }

    #[test]
    fn the_order_of_fields_counts() {
        let record = |fields: &str| format!(r#"(type $r' (record {fields})) (export "r" (type $r (eq $r')))"#);
        let (old, new) = (record(r#"(field "a" u8) (field "b" u8)"#), record(r#"(field "b" u8) (field "a" u8)"#));
        let function = r#"(param "r" $r)"#;
        assert_eq!(
            differences((&old, function), (&new, function)),
            ["parameter `r`, order of fields: expected `a, b`, found `b, a`"]
        );
    }

    #[test]
    fn what_comes_and_goes_is_told_apart_from_what_changes() {
        let (one, other) = (shape("", r#"(param "id" string)"#), shape("", r#"(param "id" u8)"#));
        let none = Shape { imports: Interfaces::new(), exports: Interfaces::new(), http: None };
        let change = |old: &Shape, new: &Shape| ShapeChanges::between(old, new).imports;
        assert!(change(&one, &one).is_empty());
        assert!(matches!(&change(&none, &one)[..], [InterfaceChange::Added { function, .. }] if function == "f"));
        assert!(
            matches!(&change(&one, &none)[..], [InterfaceChange::Removed { signature, .. }] if signature == "func(id: string)")
        );
        assert!(
            matches!(&change(&one, &other)[..], [InterfaceChange::Changed { differences, .. }] if differences.len() == 1)
        );
    }
}
