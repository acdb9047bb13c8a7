//! Values of all types come out as they went in, whichever way they are passed.

use super::relay::{Kind, send};
use wasmtime::component::Val;

const PLAIN: Kind = Kind { definition: "", flat: "i32", returned_flat: false, encoding: "utf8" };

/// A type that is passed as one flat value.
fn one(definition: &'static str, flat: &'static str) -> Kind {
    Kind { definition, flat, returned_flat: true, ..PLAIN }
}

fn several(definition: &'static str, flat: &'static str) -> Kind {
    Kind { definition, flat, ..PLAIN }
}

/// That a value comes back, and has been as long on the tape as expected.
async fn check(kind: Kind, values: impl IntoIterator<Item = (Val, usize)>) {
    for (value, length) in values {
        for sync in ["", "async"] {
            let sent = send(kind, sync, value.clone()).await.unwrap_or_else(|error| panic!("{value:?}: {error:?}"));
            assert_eq!(sent.0, value, "{}", kind.definition);
            assert_eq!(sent.1.as_bytes().len(), length, "{value:?}: {:?}", sent.1);
            assert_eq!(sent.2, sent.1, "{value:?}");
        }
    }
}

fn some(value: Val) -> Val {
    Val::Option(Some(Box::new(value)))
}

fn text(text: &str) -> Val {
    Val::String(text.into())
}

fn case(name: &str, value: Option<Val>) -> Val {
    Val::Variant(name.into(), value.map(Box::new))
}

fn bytes(bytes: &[u8]) -> Val {
    Val::List(bytes.iter().copied().map(Val::U8).collect())
}

#[tokio::test]
async fn numbers() {
    check(one("(type $t bool)", "i32"), [(Val::Bool(true), 1), (Val::Bool(false), 1)]).await;
    check(one("(type $t u8)", "i32"), [(Val::U8(u8::MAX), 1)]).await;
    check(one("(type $t s8)", "i32"), [(Val::S8(i8::MIN), 1), (Val::S8(-1), 1)]).await;
    check(one("(type $t u16)", "i32"), [(Val::U16(u16::MAX), 2)]).await;
    check(one("(type $t s16)", "i32"), [(Val::S16(i16::MIN), 2), (Val::S16(-1), 2)]).await;
    check(one("(type $t u32)", "i32"), [(Val::U32(u32::MAX), 4)]).await;
    check(one("(type $t s32)", "i32"), [(Val::S32(i32::MIN), 4)]).await;
    check(one("(type $t u64)", "i64"), [(Val::U64(u64::MAX), 8)]).await;
    check(one("(type $t s64)", "i64"), [(Val::S64(i64::MIN), 8)]).await;
    check(one("(type $t f32)", "f32"), [(Val::Float32(-0.5), 4), (Val::Float32(f32::NAN), 4)]).await;
    check(one("(type $t f64)", "f64"), [(Val::Float64(f64::MAX), 8), (Val::Float64(f64::NAN), 8)]).await;
    check(one("(type $t char)", "i32"), [(Val::Char('🚢'), 4), (Val::Char(char::MAX), 4)]).await;
}

#[tokio::test]
async fn strings_in_all_encodings() {
    for encoding in ["utf8", "utf16", "latin1+utf16"] {
        let kind = Kind { encoding, ..several("(type $t string)", "i32 i32") };
        for string in ["", "plain", "Grüße", "世界 🚢"] {
            check(kind, [(text(string), 4 + string.len())]).await;
        }
        let kind = Kind { encoding, ..several("(type $t (list string))", "i32 i32") };
        check(kind, [(Val::List(vec![text("ä"), text("世"), text("")]), 4 + 6 + 7 + 4)]).await;
    }
}

#[tokio::test]
async fn lists() {
    let kind = several("(type $t (list u8))", "i32 i32");
    check(kind, [(bytes(b""), 4), (bytes(b"\0\xff any"), 10), (bytes(&[7; 65_536]), 65_540)]).await;
    let numbers = Val::List(vec![Val::U64(1), Val::U64(u64::MAX)]);
    check(several("(type $t (list u64))", "i32 i32"), [(numbers, 20)]).await;
    let numbers = Val::List(vec![Val::Float32(-0.0), Val::Float32(f32::INFINITY)]);
    check(several("(type $t (list f32))", "i32 i32"), [(numbers, 12)]).await;
    let letters = Val::List(vec![Val::Char('a'), Val::Char('世')]);
    check(several("(type $t (list char))", "i32 i32"), [(letters, 12)]).await;
    let answers = Val::List(vec![Val::Bool(true), Val::Bool(false), Val::Bool(true)]);
    check(several("(type $t (list bool))", "i32 i32"), [(answers, 7)]).await;
    let nested = Val::List(vec![bytes(b"ab"), bytes(b""), bytes(b"c")]);
    check(several("(type $t (list (list u8)))", "i32 i32"), [(nested, 4 + 6 + 4 + 5)]).await;
    let padded = Val::List(vec![Val::Tuple(vec![Val::U8(1), Val::U64(2), Val::Bool(true), Val::U16(3)]); 3]);
    check(several("(type $t (list (tuple u8 u64 bool u16)))", "i32 i32"), [(padded, 4 + 3 * 12)]).await;
    let maybe = Val::List(vec![some(Val::U16(9)), Val::Option(None), some(Val::U16(10))]);
    check(several("(type $t (list (option u16)))", "i32 i32"), [(maybe, 4 + 6 + 4 + 6)]).await;
}

#[tokio::test]
async fn options_and_results() {
    let kind = several("(type $t (option string))", "i32 i32 i32");
    check(kind, [(Val::Option(None), 4), (some(text("yes")), 11)]).await;
    let kind = several("(type $t (option (option u32)))", "i32 i32 i32");
    check(kind, [(Val::Option(None), 4), (some(Val::Option(None)), 8), (some(some(Val::U32(1))), 12)]).await;
    let (ok, err) = (Val::Result(Ok(None)), Val::Result(Err(None)));
    check(one("(type $t (result))", "i32"), [(ok.clone(), 4), (err, 4)]).await;
    let kind = several("(type $t (result (error u64)))", "i32 i64");
    check(kind, [(ok, 4), (Val::Result(Err(Some(Box::new(Val::U64(5))))), 12)]).await;
    let kind = several("(type $t (result (list u8) (error string)))", "i32 i32 i32");
    let (ok, err) = (Val::Result(Ok(Some(Box::new(bytes(b"abc"))))), Val::Result(Err(Some(Box::new(text("no"))))));
    check(kind, [(ok, 11), (err, 10)]).await;
}

#[tokio::test]
async fn named_types() {
    let kind = several(
        r#"(type $v (variant (case "a") (case "b" f32) (case "c" u64) (case "d" string) (case "e" (tuple u8 f64))))
           (import "v" (type $t (eq $v)))"#,
        "i32 i64 i64",
    );
    let both = Val::Tuple(vec![Val::U8(1), Val::Float64(0.5)]);
    let cases = [
        (case("a", None), 4),
        (case("b", Some(Val::Float32(1.5))), 8),
        (case("c", Some(Val::U64(u64::MAX))), 12),
        (case("d", Some(text("x"))), 9),
        (case("e", Some(both)), 13),
    ];
    check(kind, cases.clone()).await;
    let kind = several(
        r#"(type $v (variant (case "a") (case "b" f32) (case "c" u64) (case "d" string) (case "e" (tuple u8 f64))))
           (import "v" (type $w (eq $v))) (type $t (list $w))"#,
        "i32 i32",
    );
    let all = cases.iter().map(|(value, _)| value.clone()).collect();
    check(kind, [(Val::List(all), 4 + 4 + 8 + 12 + 9 + 13)]).await;

    let names: Vec<String> = (0..300).map(|n| format!("\"n{n}\"")).collect();
    let definition = format!("(type $e (enum {})) (import \"e\" (type $t (eq $e)))", names.join(" "));
    let kind = one(definition.leak(), "i32");
    check(kind, [(Val::Enum("n0".into()), 4), (Val::Enum("n299".into()), 4)]).await;
    let kind = several(
        format!("(type $e (enum {})) (import \"e\" (type $n (eq $e))) (type $t (list $n))", names.join(" ")).leak(),
        "i32 i32",
    );
    check(kind, [(Val::List(vec![Val::Enum("n256".into()); 2]), 12)]).await;

    let kind = several(
        r#"(type $r (record (field "name" string) (field "data" (list u8)) (field "more" (option u8))))
           (import "r" (type $t (eq $r)))"#,
        "i32 i32 i32 i32 i32 i32",
    );
    let record = [("name", text("n")), ("data", bytes(b"12")), ("more", some(Val::U8(1)))];
    let record = Val::Record(record.into_iter().map(|(name, value)| (name.into(), value)).collect());
    check(kind, [(record, 5 + 6 + 5)]).await;
}

#[tokio::test]
async fn flags_of_all_sizes() {
    for count in [1_usize, 8, 9, 16, 17, 31, 32] {
        let names: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
        let quoted = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ");
        let definition = format!("(type $f (flags {quoted})) (import \"fl\" (type $t (eq $f)))");
        let kind = one(definition.leak(), "i32");
        let sets = [vec![], names.clone(), names.iter().step_by(3).cloned().collect()];
        check(kind, sets.clone().map(|set| (Val::Flags(set), 4))).await;
        let definition =
            format!("(type $f (flags {quoted})) (import \"fl\" (type $g (eq $f))) (type $t (list (tuple u8 $g)))");
        let all = sets.map(|set| Val::Tuple(vec![Val::U8(1), Val::Flags(set)])).to_vec();
        check(several(definition.leak(), "i32 i32"), [(Val::List(all), 4 + 3 * 5)]).await;
    }
}

/// Sixteen flat values are passed as such, and seventeen by the guest's memory.
#[tokio::test]
async fn as_many_values_as_can_be_passed_flat_and_more() {
    let tuple = |count| Val::Tuple((0..count).map(Val::U32).collect());
    for (count, flat) in [(15, "i32 ".repeat(15)), (16, "i32 ".repeat(16)), (17, "i32".into()), (60, "i32".into())] {
        let definition = format!("(type $t (tuple{}))", " u32".repeat(count));
        check(several(definition.leak(), flat.leak()), [(tuple(count as u32), 4 * count)]).await;
    }
    let mixed = "(type $t (tuple u8 (list u8) u64 (list u8) f64 string (option (list u8)) (result (list u8)) u16 u16))";
    let value = Val::Tuple(vec![
        Val::U8(1),
        bytes(b"one"),
        Val::U64(2),
        bytes(b""),
        Val::Float64(0.5),
        text("three"),
        some(bytes(b"four")),
        Val::Result(Ok(Some(Box::new(bytes(b"five"))))),
        Val::U16(6),
        Val::U16(7),
    ]);
    check(several(mixed, "i32"), [(value, 1 + 7 + 8 + 4 + 8 + 9 + 12 + 12 + 2 + 2)]).await;
}
