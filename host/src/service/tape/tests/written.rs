//! What a text says is on its tape as if a component had sent it.

use super::relay::{Kind, send, type_of};
use crate::{
    policy::WaveText,
    service::tape::{Tape, written},
};
use proptest::prelude::*;
use wasmtime::component::{Type, Val};

fn kind(definition: &'static str, flat: &'static str) -> Kind {
    Kind { definition, flat, returned_flat: !flat.contains(' ') && !definition.contains("$all"), encoding: "utf8" }
}

fn tape(ty: &Type, text: &str) -> Result<Tape, String> {
    written(&WaveText::try_new(text).unwrap(), ty).map_err(|error| error.to_string())
}

/// That these texts are these values, by the tape that wasmtime makes of the values.
async fn check(kind: Kind, texts: impl IntoIterator<Item = (&str, Val)>) {
    let ty = type_of(kind.definition);
    for (text, value) in texts {
        let (_, sent, _) = send(kind, "", value).await.unwrap();
        assert_eq!(tape(&ty, text).as_ref(), Ok(&sent), "{text}");
    }
}

fn some(value: Val) -> Val {
    Val::Option(Some(value.into()))
}

fn string(text: &str) -> Val {
    Val::String(text.into())
}

const NONE: Val = Val::Option(None);

#[tokio::test]
async fn numbers_and_strings() {
    check(kind("(type $t bool)", "i32"), [("true", Val::Bool(true)), ("false", Val::Bool(false))]).await;
    check(kind("(type $t u8)", "i32"), [("255", Val::U8(255))]).await;
    check(kind("(type $t s8)", "i32"), [("-128", Val::S8(-128))]).await;
    check(kind("(type $t u16)", "i32"), [("65535", Val::U16(u16::MAX))]).await;
    check(kind("(type $t s16)", "i32"), [("-2", Val::S16(-2))]).await;
    check(kind("(type $t u32)", "i32"), [("4294967295 // most", Val::U32(u32::MAX))]).await;
    check(kind("(type $t s32)", "i32"), [("-1", Val::S32(-1))]).await;
    check(kind("(type $t u64)", "i64"), [("18446744073709551615", Val::U64(u64::MAX))]).await;
    check(kind("(type $t s64)", "i64"), [("-9223372036854775808", Val::S64(i64::MIN))]).await;
    let floats = [("1", 1.0), ("-0.5e1", -5.0), ("-inf", f32::NEG_INFINITY), ("nan", f32::NAN)];
    check(kind("(type $t f32)", "f32"), floats.map(|(text, value)| (text, Val::Float32(value)))).await;
    check(kind("(type $t f64)", "f64"), [("1e300", Val::Float64(1e300)), ("inf", Val::Float64(f64::INFINITY))]).await;
    check(kind("(type $t char)", "i32"), [("'🚢'", Val::Char('🚢')), (r"'\u{e9}'", Val::Char('é'))]).await;
    let strings =
        [(r#""""#, ""), (r#""a\tü\"\u{1F6A2}""#, "a\tü\"🚢"), ("\"\"\"\n  two\n  lines\n  \"\"\"", "two\nlines")];
    check(kind("(type $t string)", "i32 i32"), strings.map(|(text, value)| (text, string(value)))).await;
}

#[tokio::test]
async fn lists_and_tuples() {
    let bytes = |bytes: &[u8]| Val::List(bytes.iter().copied().map(Val::U8).collect());
    check(kind("(type $t (list u8))", "i32 i32"), [("[]", bytes(b"")), ("[0, 255, 7,]", bytes(&[0, 255, 7]))]).await;
    let nested = Val::List(vec![Val::List(vec![string("a")]), Val::List(vec![])]);
    check(kind("(type $t (list (list string)))", "i32 i32"), [(r#"[["a"], []]"#, nested)]).await;
    let letters = Val::List(vec![Val::Char('a'), Val::Char('世')]);
    check(kind("(type $t (list char))", "i32 i32"), [("['a', '世']", letters)]).await;
    let both = Val::Tuple(vec![Val::U8(1), Val::Bool(true)]);
    check(kind("(type $t (tuple u8 bool))", "i32 i32"), [("(1, true)", both)]).await;
}

#[tokio::test]
async fn options_and_results() {
    let texts = [("none", NONE), ("some(1)", some(Val::U32(1))), ("1", some(Val::U32(1)))];
    check(kind("(type $t (option u32))", "i32 i32"), texts).await;
    let texts = [("none", NONE), ("some(none)", some(NONE)), ("some(some(1))", some(some(Val::U32(1))))];
    check(kind("(type $t (option (option u32)))", "i32 i32 i32"), texts).await;
    let texts = [("ok", Val::Result(Ok(None))), ("err", Val::Result(Err(None)))];
    check(kind("(type $t (result))", "i32"), texts).await;
    let ok = Val::Result(Ok(Some(string("yes").into())));
    let err = Val::Result(Err(Some(Val::U8(7).into())));
    let texts = [(r#"ok("yes")"#, ok.clone()), (r#""yes""#, ok), ("err(7)", err)];
    check(kind("(type $t (result string (error u8)))", "i32 i32 i32"), texts).await;
}

const NAMED: &str = r#"
  (type $color (enum "red" "green" "none")) (import "color" (type $c (eq $color)))
  (type $rights (flags "read" "write" "some")) (import "rights" (type $f (eq $rights)))
  (type $shape (variant (case "nothing") (case "circle" f64) (case "err" (list $c)) (case "named" (tuple string char))))
  (import "shape" (type $s (eq $shape)))
  (type $all (record
    (field "yes" bool) (field "numbers" (tuple u8 s8 u16 s16 u32 s32 u64 s64 f32)) (field "text" string)
    (field "rights" $f) (field "shapes" (list $s)) (field "maybe" (option (option u32)))
    (field "outcome" (result (list string) (error $c))) (field "done" (result)) (field "bytes" (option (list u8)))))
  (import "all" (type $t (eq $all)))"#;

const ALL: &str = r#"{shapes: [nothing, circle(-1.5), %err([red, %none]), named(("n", 'c'))],
  yes: true, numbers: (1, -1, 2, -2, 3, -3, 4, -4, 0.5), text: "t", rights: {%some, read}, outcome: err(green), done: ok}"#;

#[tokio::test]
async fn named_types() {
    let case = |name: &str, value: Option<Val>| Val::Variant(name.into(), value.map(Box::new));
    let colors = ["red", "none"].map(|name| Val::Enum(name.into())).to_vec();
    let shapes = vec![
        case("nothing", None),
        case("circle", Some(Val::Float64(-1.5))),
        case("err", Some(Val::List(colors))),
        case("named", Some(Val::Tuple(vec![string("n"), Val::Char('c')]))),
    ];
    let numbers = vec![
        Val::U8(1),
        Val::S8(-1),
        Val::U16(2),
        Val::S16(-2),
        Val::U32(3),
        Val::S32(-3),
        Val::U64(4),
        Val::S64(-4),
        Val::Float32(0.5),
    ];
    let fields = [
        ("yes", Val::Bool(true)),
        ("numbers", Val::Tuple(numbers)),
        ("text", string("t")),
        ("rights", Val::Flags(vec!["read".into(), "some".into()])),
        ("shapes", Val::List(shapes)),
        ("maybe", NONE),
        ("outcome", Val::Result(Err(Some(Val::Enum("green".into()).into())))),
        ("done", Val::Result(Ok(None))),
        ("bytes", NONE),
    ];
    let record = Val::Record(fields.map(|(name, value)| (name.into(), value)).to_vec());
    check(kind(NAMED, "i32"), [(ALL, record)]).await;
}

#[test]
fn what_is_of_another_type_is_refused_and_the_place_told() {
    let refused = |definition: &'static str, text: &str| tape(&type_of(definition), text).unwrap_err();
    for (definition, text, expected) in [
        ("(type $t (list u8))", "[1, 256]", "expected `u8`, found `256` (character 5)"),
        ("(type $t (list u8))", "[1, -1]", "expected `u8`, found `-1` (character 5)"),
        ("(type $t (list u8))", "[1, 1.0]", "expected `u8`, found `1.0` (character 5)"),
        ("(type $t (list u8))", "(1, 2)", "expected `list<u8>`, found `(1, 2)` (character 1)"),
        ("(type $t string)", "name", "expected `string`, found `name` (character 1)"),
        ("(type $t string)", r#""\u{110000}""#, r#"expected `string`, found `"\u{110000}"` (character 1)"#),
        ("(type $t (tuple u8 bool))", "(1)", "expected `tuple<u8, bool>`, found `(1)` (character 1)"),
        ("(type $t (tuple u8 bool))", "(1, true, 2)", "expected `tuple<u8, bool>`, found `(1, true, 2)` (character 1)"),
        ("(type $t (option u8))", r#"some("ü")"#, r#"expected `u8`, found `"ü"` (character 6)"#),
        ("(type $t (option (result u8)))", "1", "expected `option<result<u8>>`, found `1` (character 1)"),
        ("(type $t (result u8))", "ok", "expected `result<u8>`, found `ok` (character 1)"),
        ("(type $t (result u8))", "err(1)", "expected `result<u8>`, found `err(1)` (character 1)"),
        ("(type $t (result u8))", "none", "expected `u8`, found `none` (character 1)"),
    ] {
        assert_eq!(refused(definition, text), expected, "{text}");
    }
    let all = type_of(NAMED);
    for (from, to, expected) in [
        (
            "circle(-1.5)",
            "circle",
            "expected `variant { nothing, circle(f64), err(list<enum { red, green, none }>), named(tuple<string, char>) }`, found `circle` (character 20)",
        ),
        ("nothing", "nothing(1)", ", found `nothing(1)` (character 11)"),
        ("nothing", "square", ", found `square` (character 11)"),
        ("[red,", "[blue,", "expected `enum { red, green, none }`, found `blue` (character 40)"),
        ("{%some", "{%some, own", "expected `flags { read, write, some }`, found `{%some, own, read}` (character "),
        ("text: \"t\", ", "", "expected the field `text: string`, found `{shapes: "),
        ("text: ", "txet: ", "found the field `txet` (did you mean `text`?) in `{shapes: "),
    ] {
        let error = tape(&all, &ALL.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

fn any_value(ty: &Type) -> BoxedStrategy<Val> {
    let case = |name: String, ty: Option<Type>| match ty {
        Some(ty) => any_value(&ty).prop_map(move |value| Val::Variant(name.clone(), Some(value.into()))).boxed(),
        None => Just(Val::Variant(name, None)).boxed(),
    };
    let payload = |ty: Option<Type>| match ty {
        Some(ty) => any_value(&ty).prop_map(|value| Some(Box::new(value))).boxed(),
        None => Just(None).boxed(),
    };
    match ty {
        Type::Bool => any::<bool>().prop_map(Val::Bool).boxed(),
        Type::U8 => any::<u8>().prop_map(Val::U8).boxed(),
        Type::S8 => any::<i8>().prop_map(Val::S8).boxed(),
        Type::U16 => any::<u16>().prop_map(Val::U16).boxed(),
        Type::S16 => any::<i16>().prop_map(Val::S16).boxed(),
        Type::U32 => any::<u32>().prop_map(Val::U32).boxed(),
        Type::S32 => any::<i32>().prop_map(Val::S32).boxed(),
        Type::U64 => any::<u64>().prop_map(Val::U64).boxed(),
        Type::S64 => any::<i64>().prop_map(Val::S64).boxed(),
        Type::Float32 => any::<f32>().prop_map(Val::Float32).boxed(),
        Type::Float64 => any::<f64>().prop_map(Val::Float64).boxed(),
        Type::Char => any::<char>().prop_map(Val::Char).boxed(),
        Type::String => any::<String>().prop_map(Val::String).boxed(),
        Type::List(list) => prop::collection::vec(any_value(&list.ty()), 0..4).prop_map(Val::List).boxed(),
        Type::Tuple(tuple) => tuple.types().map(|ty| any_value(&ty)).collect::<Vec<_>>().prop_map(Val::Tuple).boxed(),
        Type::Record(record) => {
            let fields = record.fields().map(|field| (Just(field.name.to_string()), any_value(&field.ty)));
            fields.collect::<Vec<_>>().prop_map(Val::Record).boxed()
        }
        Type::Variant(variant) => {
            let cases: Vec<_> = variant.cases().map(|it| case(it.name.to_string(), it.ty)).collect();
            prop::strategy::Union::new(cases).boxed()
        }
        Type::Enum(names) => {
            let names: Vec<String> = names.names().map(Into::into).collect();
            prop::sample::select(names).prop_map(Val::Enum).boxed()
        }
        Type::Flags(flags) => {
            let names: Vec<String> = flags.names().map(Into::into).collect();
            prop::sample::subsequence(names.clone(), 0..=names.len()).prop_map(Val::Flags).boxed()
        }
        Type::Option(option) => prop_oneof![Just(NONE), any_value(&option.ty()).prop_map(some)].boxed(),
        Type::Result(result) => prop_oneof![
            payload(result.ok()).prop_map(|value| Val::Result(Ok(value))),
            payload(result.err()).prop_map(|value| Val::Result(Err(value)))
        ]
        .boxed(),
        other => panic!("no value of {other:?}"),
    }
}

/// A value in WAVE.
fn wave(value: &Val) -> String {
    let all = |values: &[Val]| values.iter().map(wave).collect::<Vec<_>>().join(", ");
    let label = |name: &str| match name {
        "none" | "some" | "ok" | "err" => format!("%{name}"),
        _ => name.to_owned(),
    };
    let case = |label: String, value: &Option<Box<Val>>| match value {
        Some(value) => format!("{label}({})", wave(value)),
        None => label,
    };
    let escaped = |c: char| if c.is_alphanumeric() { c.to_string() } else { c.escape_unicode().to_string() };
    match value {
        Val::Bool(value) => value.to_string(),
        Val::U8(value) => value.to_string(),
        Val::S8(value) => value.to_string(),
        Val::U16(value) => value.to_string(),
        Val::S16(value) => value.to_string(),
        Val::U32(value) => value.to_string(),
        Val::S32(value) => value.to_string(),
        Val::U64(value) => value.to_string(),
        Val::S64(value) => value.to_string(),
        Val::Float32(value) => value.to_string(),
        Val::Float64(value) => value.to_string(),
        Val::Char(value) => format!("'{}'", escaped(*value)),
        Val::String(value) => format!("\"{}\"", value.chars().map(escaped).collect::<String>()),
        Val::List(values) => format!("[{}]", all(values)),
        Val::Tuple(values) => format!("({})", all(values)),
        Val::Record(fields) => {
            let there = fields.iter().filter(|(_, value)| *value != NONE);
            let fields: Vec<_> = there.map(|(name, value)| format!("{name}: {}", wave(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Val::Variant(name, value) => case(label(name), value),
        Val::Enum(name) => label(name),
        Val::Flags(names) => format!("{{{}}}", names.iter().map(|name| label(name)).collect::<Vec<_>>().join(", ")),
        Val::Option(value) => value.as_ref().map_or("none".into(), |value| format!("some({})", wave(value))),
        Val::Result(Ok(value)) => case("ok".into(), value),
        Val::Result(Err(value)) => case("err".into(), value),
        other => panic!("{other:?} can't be written"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_value_that_is_written_is_on_its_tape(value in any_value(&type_of(NAMED))) {
        let text = wave(&value);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_, sent, _) = runtime.block_on(send(kind(NAMED, "i32"), "", value)).unwrap();
        prop_assert_eq!(tape(&type_of(NAMED), &text), Ok(sent), "{}", text);
    }
}
