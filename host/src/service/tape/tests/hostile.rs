//! What a guest may try: pointers and lengths that are none, and more than fits.

use super::relay::{ROOM, compile, with_tapes};
use crate::service::tape::{MOST_BYTES, MOST_UNDER_WAY, MOST_VALUES, NotCarried, Tape, UnderWay};

/// What becomes of a call of `f` with a parameter of type `ty`, made of these core WebAssembly values.
async fn sent(ty: &str, flat: &str, values: &str, prepare: &str) -> Result<usize, String> {
    let component = compile(&format!(
        r#"(component
          (import "f" (func $f (param "p" {ty})))
          {ROOM}
          (core func $f (canon lower (func $f) (memory (core memory $room "memory")) (realloc (core func $room "realloc"))))
          (core module $m
            (import "" "f" (func $f (param {flat})))
            (import "" "memory" (memory 1))
            (func (export "g") (local $n i32) {prepare} (call $f {values})))
          (alias core export $room "memory" (core memory $mem))
          (core instance $i (instantiate $m (with "" (instance (export "f" (func $f)) (export "memory" (memory $mem))))))
          (func (export "g") (canon lift (core func $i "g"))))"#
    ));
    let (mut store, instance, seen) = with_tapes(&component).await;
    let g = instance.get_typed_func::<(), ()>(&mut store, "g").unwrap();
    match g.call_async(&mut store, ()).await {
        Ok(()) => Ok(seen.lock().unwrap().take().expect("`f` was called").unwrap().as_bytes().len()),
        Err(error) if error.is::<NotCarried>() => Err("too large".into()),
        Err(error) => Err(error.root_cause().to_string()),
    }
}

async fn list(element: &str, values: &str) -> Result<usize, String> {
    sent(&format!("(list {element})"), "i32 i32", values, "").await
}

#[tokio::test]
async fn pointers_and_lengths_are_checked() {
    let out = Err("pointer or length is out of bounds of memory".to_owned());
    for element in ["u8", "u64", "bool", "string", "(tuple u64 u64)"] {
        assert_eq!(list(element, "(i32.const 0) (i32.const -1)").await, out, "{element}");
        assert_eq!(list(element, "(i32.const -8) (i32.const 1)").await, out, "{element}");
        assert_eq!(list(element, "(i32.const -8) (i32.const 0)").await, out, "{element}");
        assert_eq!(list(element, "(i32.const 65536000) (i32.const 0)").await, Ok(4), "{element}");
        assert_eq!(list(element, "(i32.const 65535992) (i32.const 9)").await, out, "{element}");
    }
    assert_eq!(sent("string", "i32 i32", "(i32.const 1) (i32.const -1)", "").await, out);
    let unaligned = Err("list pointer is not aligned".to_owned());
    assert_eq!(list("u16", "(i32.const 1) (i32.const 0)").await, unaligned);
    assert_eq!(list("(tuple u8 u64)", "(i32.const 4) (i32.const 1)").await, unaligned);
    // Within a list, and with more parameters than can be passed flat.
    let inner = "(i32.store (i32.const 16) (i32.const 70000000)) (i32.store (i32.const 20) (i32.const 1))";
    assert_eq!(sent("(list string)", "i32 i32", "(i32.const 16) (i32.const 1)", inner).await, out);
    let many = "(tuple string u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64 u64)";
    assert_eq!(sent(many, "i32", "(i32.const 16)", inner).await, out);
    assert!(sent(many, "i32", "(i32.const -8)", "").await.is_err());
    assert!(sent(many, "i32", "(i32.const 20)", "").await.is_err(), "not aligned");
}

#[tokio::test]
async fn values_that_are_none_are_refused() {
    let said = |result: Result<usize, String>, part: &str| {
        let error = result.expect_err("there is no such value");
        assert!(error.contains(part), "{error}");
    };
    said(sent("char", "i32", "(i32.const 0xd800)", "").await, "char");
    said(sent("(option u32)", "i32 i32", "(i32.const 2) (i32.const 0)", "").await, "discriminant 2");
    said(sent("(result)", "i32", "(i32.const -1)", "").await, "discriminant 4294967295");
    let bytes = "(i32.store (i32.const 16) (i32.const -1))";
    said(sent("string", "i32 i32", "(i32.const 16) (i32.const 2)", bytes).await, "utf-8");
    said(sent("(list (option u8))", "i32 i32", "(i32.const 16) (i32.const 1)", bytes).await, "discriminant 255");
    said(sent("(list char)", "i32 i32", "(i32.const 16) (i32.const 1)", bytes).await, "char");
}

#[tokio::test]
async fn what_is_too_large_is_never_recorded() {
    let too_large = Err("too large".to_owned());
    let bytes = |count: usize| format!("(i32.const 0) (i32.const {count})");
    assert_eq!(list("u8", &bytes(MOST_BYTES)).await, Ok(4 + MOST_BYTES));
    assert_eq!(list("u8", &bytes(MOST_BYTES + 1)).await, too_large);
    assert_eq!(list("u64", &bytes(MOST_BYTES / 8)).await, Ok(4 + MOST_BYTES));
    assert_eq!(list("u64", &bytes(MOST_BYTES / 8 + 1)).await, too_large);
    assert_eq!(sent("string", "i32 i32", &bytes(MOST_BYTES), "").await, Ok(4 + MOST_BYTES));
    assert_eq!(sent("string", "i32 i32", &bytes(MOST_BYTES + 1), "").await, too_large);
    // The parameters as a whole and the list are values as well.
    assert_eq!(list("bool", &bytes(MOST_VALUES - 2)).await, Ok(4 + MOST_VALUES - 2));
    assert_eq!(list("bool", &bytes(MOST_VALUES - 1)).await, too_large);
    assert_eq!(list("bool", &bytes(60_000_000)).await, too_large);
    assert_eq!(list("(option u64)", &bytes(4_000_000)).await, too_large);
}

/// Lists within a list that all lie in the same place: little memory, and a lot to copy.
#[tokio::test]
async fn the_same_bytes_over_and_over_count_each_time() {
    let fill = |count: usize, length: usize| {
        format!(
            "(local.set $n (i32.const {}))
             (loop
               (i32.store (i32.sub (local.get $n) (i32.const 4)) (i32.const {length}))
               (local.set $n (i32.sub (local.get $n) (i32.const 8)))
               (br_if 0 (local.get $n)))",
            count * 8
        )
    };
    for (inner, size) in [("(list u8)", 1), ("(list u32)", 4)] {
        let ty = format!("(list {inner})");
        let values = |count: usize| format!("(i32.const 0) (i32.const {count})");
        let within = sent(&ty, "i32 i32", &values(16), &fill(16, (1 << 20) / size)).await;
        assert_eq!(within, Ok(4 + 16 * 4 + MOST_BYTES), "{inner}");
        let beyond = sent(&ty, "i32 i32", &values(17), &fill(17, (1 << 20) / size)).await;
        assert_eq!(beyond, Err("too large".into()), "{inner}");
        let many = sent(&ty, "i32 i32", &values(100_000), &fill(100_000, (32 << 20) / size)).await;
        assert_eq!(many, Err("too large".into()), "{inner}");
    }
    assert_eq!(
        sent("(list (list u8))", "i32 i32", "(i32.const 0) (i32.const 2000000)", "").await,
        Err("too large".into())
    );
}

#[test]
fn what_is_under_way_counts_until_it_has_arrived() {
    let under_way = UnderWay::default();
    let large = || under_way.count(Tape::from(vec![0; MOST_BYTES]));
    let mut held: Vec<Tape> = (0..MOST_UNDER_WAY / MOST_BYTES).map(|_| large().unwrap()).collect();
    assert_eq!(large(), Err(NotCarried::TooMuchUnderWay));
    assert_eq!(large(), Err(NotCarried::TooMuchUnderWay), "what was refused does not count");
    assert_eq!(under_way.count(Tape::from(vec![0; 100])), Ok(Tape::from(vec![0; 100])));
    let again = held[0].clone();
    held.remove(0);
    assert!(large().is_err(), "a clone of it is still there");
    drop(again);
    assert!(large().is_ok());
    held.clear();
    assert!(large().is_ok());
}
