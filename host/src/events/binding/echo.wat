;; A service with a subscription: publishes the data of every event again, to the topic that the event's subject names,
;; with the event's id as subject. Acknowledges what it could publish, rejects what was denied with the reason, and asks
;; for another try otherwise.
(component
  (import "wharf:messaging/types@0.1.0" (instance $types
    (type $event' (record
      (field "topic" string) (field "id" string) (field "source" string) (field "subject" (option string))
      (field "time" string) (field "datacontenttype" string) (field "traceparent" (option string))
      (field "attempt" u32) (field "data" (list u8))))
    (export "event" (type (eq $event')))
    (type $verdict' (variant (case "ack") (case "retry" (option u64)) (case "reject" string)))
    (export "verdict" (type (eq $verdict')))
  ))
  (import "wharf:platform/faults@0.1.0" (instance $faults
    (type $kind' (enum
      "unreachable" "circuit-open" "overloaded" "deadline-exceeded" "trapped" "cancelled" "denied"))
    (export "fault-kind" (type $kind (eq $kind')))
    (type $fault' (record (field "kind" $kind) (field "message" string) (field "retry-after-ms" (option u64))))
    (export "fault" (type (eq $fault')))
  ))
  (alias export $types "event" (type $event))
  (alias export $types "verdict" (type $verdict))
  (alias export $faults "fault" (type $fault))
  (import "wharf:messaging/publisher@0.1.0" (instance $publisher
    (alias outer 1 $fault (type $fault'))
    (export "fault" (type $fault (eq $fault')))
    (type $new' (record
      (field "topic" string) (field "subject" (option string)) (field "datacontenttype" (option string))
      (field "data" (list u8)) (field "due" (option string))))
    (export "new-event" (type $new (eq $new')))
    (type $error' (variant (case "denied" string) (case "invalid" string) (case "fault" $fault)))
    (export "publish-error" (type $error (eq $error')))
    (export "publish" (func async (param "event" $new) (result (result string (error $error)))))
  ))

  (core module $libc
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $publish (canon lower (func $publisher "publish")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))

  (core module $service
    (import "libc" "memory" (memory 16))
    (import "host" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    ;; In memory, the event has id at 8, subject at 24 (its text at 28), data at 68. The answer of publish goes to
    ;; 1024, with the error's case at 1032 and its text at 1040. The verdict is made at 2048, its payload at 2056.
    (func (export "handle") (param $event i32) (result i32)
      (call $publish
        (i32.load offset=28 (local.get $event)) (i32.load offset=32 (local.get $event))
        (i32.const 1) (i32.load offset=8 (local.get $event)) (i32.load offset=12 (local.get $event))
        (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.load offset=68 (local.get $event)) (i32.load offset=72 (local.get $event))
        (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 1024))
      (if (i32.eqz (i32.load8_u (i32.const 1024)))
        (then (i32.store8 (i32.const 2048) (i32.const 0)))
        (else (if (i32.eqz (i32.load8_u (i32.const 1032)))
          (then
            (i32.store8 (i32.const 2048) (i32.const 2))
            (i64.store (i32.const 2056) (i64.load (i32.const 1040))))
          (else
            (i32.store8 (i32.const 2048) (i32.const 1))
            (i32.store8 (i32.const 2056) (i32.const 0))))))
      (i32.const 2048)))
  (core instance $service (instantiate $service
    (with "libc" (instance $libc))
    (with "host" (instance (export "publish" (func $publish))))))

  (func $handle async (param "event" $event) (result $verdict)
    (canon lift (core func $service "handle") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "wharf:messaging/handler@0.1.0" (instance $handler))
)
