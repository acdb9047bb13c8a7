//! Small components, written by hand: each does one odd thing on command.

/// A component that exports `interface`:
///
/// - `add(a, b)`, `trap()`, `spin()` (never returns), `compute(rounds)`, `grow(pages)`;
/// - `count() -> u32`: the how-manieth call of `count` and `sleep` it is in this instance;
/// - `async sleep(ms) -> u32`: the same, after a pause in which other calls run;
/// - `hold(ms)`: a pause in a synchronous import, which holds the whole store.
pub fn leaf(interface: &str) -> String {
    format!(
        r#"(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
    (export "wait-for" (func async (param "how-long" u64)))))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $old-clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (core func $subscribe (canon lower (func $old-clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $drop (canon resource.drop $pollable))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $wait (canon lower (func $clock "wait-for") async (memory (core memory $mem))))
  {WAITABLES}
  (core func $return (canon task.return (result u32)))
  (core module $m
    (import "i" "wait" (func $wait (param i64) (result i32)))
    (import "i" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "i" "block" (func $block (param i32)))
    (import "i" "drop" (func $drop (param i32)))
    {WAITABLE_IMPORTS}
    (import "i" "return" (func $return (param i32)))
    (import "i" "memory" (memory 1))
    (global $calls (mut i32) (i32.const 0))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "trap") unreachable)
    (func (export "spin") (loop (br 0)))
    (func (export "compute") (param i32)
      (loop
        (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
        (br_if 0 (local.get 0))))
    (func (export "grow") (param i32) (drop (memory.grow (local.get 0))))
    (func (export "count") (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (global.get $calls))
    (func (export "hold") (param i32)
      (local.set 0 (call $subscribe (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 1000000))))
      (call $block (local.get 0))
      (call $drop (local.get 0)))
    (func (export "sleep") (param i32) (result i32) (local $status i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (local.set $status (call $wait (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 1000000))))
      (if (i32.eq (i32.and (local.get $status) (i32.const 15)) (i32.const 2))
        (then (call $return (global.get $calls)) (return (i32.const 0))))
      (call $await (i32.shr_u (local.get $status) (i32.const 4))))
    {AWAIT}
    (func (export "woken") (param i32 i32 i32) (result i32)
      (if (i32.ne (local.get 2) (i32.const 2)) (then (return (call $again))))
      (call $forget (local.get 1))
      (call $return (global.get $calls))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "i" (instance
    (export "wait" (func $wait)) (export "subscribe" (func $subscribe)) (export "block" (func $block))
    (export "drop" (func $drop)) (export "return" (func $return))
    (export "memory" (memory $mem)) {WAITABLE_EXPORTS}))))
  (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $trap (canon lift (core func $i "trap")))
  (func $spin (canon lift (core func $i "spin")))
  (func $compute (param "rounds" u32) (canon lift (core func $i "compute")))
  (func $grow (param "pages" u32) (canon lift (core func $i "grow")))
  (func $count (result u32) (canon lift (core func $i "count")))
  (func $hold (param "ms" u32) (canon lift (core func $i "hold")))
  (func $sleep async (param "ms" u32) (result u32)
    (canon lift (core func $i "sleep") async (callback (core func $i "woken"))))
  (instance $work
    (export "add" (func $add)) (export "trap" (func $trap)) (export "spin" (func $spin))
    (export "compute" (func $compute)) (export "grow" (func $grow)) (export "count" (func $count))
    (export "hold" (func $hold)) (export "sleep" (func $sleep)))
  (export "{interface}" (instance $work)))"#
    )
}

/// A component that exports `add`, `trap`, `hold` and `async sleep` as `interface`, and hands each on to `next`.
pub fn relay(interface: &str, next: &str) -> String {
    format!(
        r#"(component
  (import "{next}" (instance $next
    (export "add" (func (param "a" u32) (param "b" u32) (result u32)))
    (export "trap" (func))
    (export "hold" (func (param "ms" u32)))
    (export "sleep" (func async (param "ms" u32) (result u32)))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $add (canon lower (func $next "add")))
  (core func $trap (canon lower (func $next "trap")))
  (core func $hold (canon lower (func $next "hold")))
  (core func $sleep (canon lower (func $next "sleep") async (memory (core memory $mem))))
  {WAITABLES}
  (core func $return (canon task.return (result u32)))
  (core module $m
    (import "i" "add" (func $add (param i32 i32) (result i32)))
    (import "i" "trap" (func $trap))
    (import "i" "hold" (func $hold (param i32)))
    (import "i" "sleep" (func $sleep (param i32 i32) (result i32)))
    {WAITABLE_IMPORTS}
    (import "i" "return" (func $return (param i32)))
    (import "i" "memory" (memory 1))
    (func (export "add") (param i32 i32) (result i32) (call $add (local.get 0) (local.get 1)))
    (func (export "trap") (call $trap))
    (func (export "hold") (param i32) (call $hold (local.get 0)))
    (func (export "sleep") (param i32) (result i32) (local $status i32)
      (local.set $status (call $sleep (local.get 0) (i32.const 16)))
      (if (i32.eq (i32.and (local.get $status) (i32.const 15)) (i32.const 2))
        (then (call $return (i32.load (i32.const 16))) (return (i32.const 0))))
      (call $await (i32.shr_u (local.get $status) (i32.const 4))))
    {AWAIT}
    (func (export "woken") (param i32 i32 i32) (result i32)
      (if (i32.ne (local.get 2) (i32.const 2)) (then (return (call $again))))
      (call $forget (local.get 1))
      (call $return (i32.load (i32.const 16)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "i" (instance
    (export "add" (func $add)) (export "trap" (func $trap)) (export "hold" (func $hold)) (export "sleep" (func $sleep))
    (export "return" (func $return)) (export "memory" (memory $mem)) {WAITABLE_EXPORTS}))))
  (func $add-it (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $trap-it (canon lift (core func $i "trap")))
  (func $hold-it (param "ms" u32) (canon lift (core func $i "hold")))
  (func $sleep-it async (param "ms" u32) (result u32)
    (canon lift (core func $i "sleep") async (callback (core func $i "woken"))))
  (instance $work (export "add" (func $add-it)) (export "trap" (func $trap-it)) (export "hold" (func $hold-it))
    (export "sleep" (func $sleep-it)))
  (export "{interface}" (instance $work)))"#
    )
}

/// A component that calls `add` of `next` already while it is being made.
pub fn hasty(interface: &str, next: &str) -> String {
    format!(
        r#"(component
  (import "{next}" (instance $next (export "add" (func (param "a" u32) (param "b" u32) (result u32)))))
  (core func $add (canon lower (func $next "add")))
  (core module $m
    (import "i" "add" (func $add (param i32 i32) (result i32)))
    (global $sum (mut i32) (i32.const 0))
    (func $start (global.set $sum (call $add (i32.const 1) (i32.const 2))))
    (start $start)
    (func (export "sum") (result i32) (global.get $sum)))
  (core instance $i (instantiate $m (with "i" (instance (export "add" (func $add))))))
  (func $sum (result u32) (canon lift (core func $i "sum")))
  (instance $work (export "sum" (func $sum)))
  (export "{interface}" (instance $work)))"#
    )
}

/// A component that traps while it is being made.
pub fn stillborn(interface: &str) -> String {
    format!(
        r#"(component
  (core module $m (func $start unreachable) (start $start) (func (export "run")))
  (core instance $i (instantiate $m))
  (func $run (canon lift (core func $i "run")))
  (instance $work (export "run" (func $run)))
  (export "{interface}" (instance $work)))"#
    )
}

/// A component that exports `interface`:
///
/// - `echo(data: list<u8>) -> list<u8>`;
/// - `flood(bytes: u32) -> list<u8>`: as many bytes as asked, up to 32 MiB;
/// - `count() -> u32`: the how-manieth call it is in this instance.
pub fn bytes_leaf(interface: &str) -> String {
    format!(
        r#"(component
  (core module $m
    (memory (export "memory") 520)
    (global $calls (mut i32) (i32.const 0))
    (func $called (global.set $calls (i32.add (global.get $calls) (i32.const 1))))
    ;; One list at a time.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
    (func $list (export "echo") (param i32 i32) (result i32)
      (call $called)
      (i32.store (i32.const 0) (local.get 0))
      (i32.store (i32.const 4) (local.get 1))
      (i32.const 0))
    (func (export "flood") (param i32) (result i32) (call $list (i32.const 16) (local.get 0)))
    (func (export "count") (result i32) (call $called) (global.get $calls)))
  (core instance $i (instantiate $m))
  (func $echo (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $flood (param "bytes" u32) (result (list u8)) (canon lift (core func $i "flood") (memory (core memory $i "memory"))))
  (func $count (result u32) (canon lift (core func $i "count")))
  (instance $work (export "echo" (func $echo)) (export "flood" (func $flood)) (export "count" (func $count)))
  (export "{interface}" (instance $work)))"#
    )
}

/// A component that exports `echo` and `flood` as `interface`, and hands each on to `next`.
pub fn bytes_relay(interface: &str, next: &str) -> String {
    format!(
        r#"(component
  (import "{next}" (instance $next
    (export "echo" (func (param "data" (list u8)) (result (list u8))))
    (export "flood" (func (param "bytes" u32) (result (list u8))))))
  (core module $room
    (memory (export "memory") 1040)
    (global $next (mut i32) (i32.const 16))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $next)
      (global.set $next (i32.add (global.get $next) (local.get 3))))
    (func (export "free") (param i32) (global.set $next (i32.const 16))))
  (core instance $room (instantiate $room))
  (core func $echo (canon lower (func $next "echo") (memory (core memory $room "memory")) (realloc (core func $room "realloc"))))
  (core func $flood (canon lower (func $next "flood") (memory (core memory $room "memory")) (realloc (core func $room "realloc"))))
  (core module $m
    (import "i" "echo" (func $echo (param i32 i32 i32)))
    (import "i" "flood" (func $flood (param i32 i32)))
    (func (export "echo") (param i32 i32) (result i32)
      (call $echo (local.get 0) (local.get 1) (i32.const 0)) (i32.const 0))
    (func (export "flood") (param i32) (result i32) (call $flood (local.get 0) (i32.const 0)) (i32.const 0)))
  (core instance $i (instantiate $m (with "i" (instance
    (export "echo" (func $echo)) (export "flood" (func $flood))))))
  (func $echo-it (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "echo") (memory (core memory $room "memory")) (realloc (core func $room "realloc"))
      (post-return (core func $room "free"))))
  (func $flood-it (param "bytes" u32) (result (list u8))
    (canon lift (core func $i "flood") (memory (core memory $room "memory")) (post-return (core func $room "free"))))
  (instance $work (export "echo" (func $echo-it)) (export "flood" (func $flood-it)))
  (export "{interface}" (instance $work)))"#
    )
}

const WAITABLES: &str = r#"
  (core func $set-new (canon waitable-set.new))
  (core func $set-drop (canon waitable-set.drop))
  (core func $join (canon waitable.join))
  (core func $subtask-drop (canon subtask.drop))
  (core func $context-set (canon context.set i32 0))
  (core func $context-get (canon context.get i32 0))"#;

const WAITABLE_IMPORTS: &str = r#"
    (import "i" "set-new" (func $set-new (result i32)))
    (import "i" "set-drop" (func $set-drop (param i32)))
    (import "i" "join" (func $join (param i32 i32)))
    (import "i" "subtask-drop" (func $subtask-drop (param i32)))
    (import "i" "context-set" (func $context-set (param i32)))
    (import "i" "context-get" (func $context-get (result i32)))"#;

const WAITABLE_EXPORTS: &str = r#"
    (export "set-new" (func $set-new)) (export "set-drop" (func $set-drop)) (export "join" (func $join))
    (export "subtask-drop" (func $subtask-drop)) (export "context-set" (func $context-set))
    (export "context-get" (func $context-get))"#;

/// `$await(subtask)` answers that the task waits for it, `$again()` that it goes on waiting, `$forget(subtask)` cleans up.
const AWAIT: &str = r#"
    (func $again (result i32) (i32.or (i32.const 2) (i32.shl (call $context-get) (i32.const 4))))
    (func $await (param i32) (result i32)
      (call $context-set (call $set-new))
      (call $join (local.get 0) (call $context-get))
      (call $again))
    (func $forget (param i32)
      (call $subtask-drop (local.get 0))
      (call $set-drop (call $context-get)))"#;
