;; A service with a subscription and a database, whose handler does what the event's subject says:
;;
;; - it writes a row to `sent` (but for `none`), with its own statement; where that fails it asks for another try;
;; - `ack`, `none`: acknowledges; `retry`: asks for another try; `say-no`: rejects; `trap`: traps;
;; - `open`: begins a transaction, writes a second row in it and leaves it open; `nest`: commits it; both acknowledge;
;; - `tell`: writes its row by the outbox, with an event about it, and acknowledges; `mute`: the same, and traps.
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
  ))
  (alias export $publisher "new-event" (type $new-event))
  (alias export $publisher "publish-error" (type $publish-error))
  (import "wharf:store/sql@0.1.0" (instance $sql
    (type $value' (variant (case "null") (case "integer" s64) (case "real" f64) (case "text" string) (case "blob" (list u8))))
    (export "value" (type $value (eq $value')))
    (type $statement' (record (field "sql" string) (field "params" (list $value))))
    (export "statement" (type $statement (eq $statement')))
    (type $constraint' (enum "unique" "foreign-key" "not-null" "check" "other"))
    (export "constraint" (type $constraint (eq $constraint')))
    (type $error' (variant
      (case "invalid" string) (case "constraint" (tuple $constraint string)) (case "busy" string)
      (case "too-large" string) (case "closed" string) (case "unavailable" string)))
    (export "error" (type $error (eq $error')))
    (export "transaction" (type $transaction (sub resource)))
    (export "execute" (func async (param "statement" $statement) (result (result u64 (error $error)))))
    (export "begin" (func async (result (result (own $transaction) (error $error)))))
    (export "[method]transaction.execute"
      (func async (param "self" (borrow $transaction)) (param "statement" $statement) (result (result u64 (error $error)))))
    (export "[method]transaction.commit"
      (func async (param "self" (borrow $transaction)) (result (result (error $error)))))
  ))
  (alias export $sql "statement" (type $statement))
  (alias export $sql "error" (type $store-error))
  (alias export $sql "transaction" (type $transaction))
  (import "wharf:outbox/outbox@0.1.0" (instance $outbox
    (alias outer 1 $statement (type $statement'))
    (export "statement" (type $statement (eq $statement')))
    (alias outer 1 $transaction (type $transaction'))
    (export "transaction" (type $transaction (eq $transaction')))
    (alias outer 1 $store-error (type $store'))
    (export "error" (type $store (eq $store')))
    (alias outer 1 $new-event (type $new'))
    (export "new-event" (type $new (eq $new')))
    (alias outer 1 $publish-error (type $publish'))
    (export "publish-error" (type $publish (eq $publish')))
    (type $error' (variant (case "store" $store) (case "publish" $publish)))
    (export "outbox-error" (type $error (eq $error')))
    (export "publish" (func async (param "transaction" (borrow $transaction)) (param "event" $new)
      (result (result string (error $error)))))
    (export "batch" (func async (param "statements" (list $statement)) (param "events" (list $new))
      (result (result (tuple (list u64) (list string)) (error $error)))))
  ))

  (core module $libc
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $execute (canon lower (func $sql "execute")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $begin (canon lower (func $sql "begin")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $execute-in (canon lower (func $sql "[method]transaction.execute")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $commit (canon lower (func $sql "[method]transaction.commit")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $publish (canon lower (func $outbox "publish")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $batch (canon lower (func $outbox "batch")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))

  (core module $service
    (import "libc" "memory" (memory 16))
    (import "host" "execute" (func $execute (param i32 i32 i32 i32 i32)))
    (import "host" "begin" (func $begin (param i32)))
    (import "host" "execute-in" (func $execute-in (param i32 i32 i32 i32 i32 i32)))
    (import "host" "commit" (func $commit (param i32 i32)))
    (import "host" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "batch" (func $batch (param i32 i32 i32 i32 i32)))
    (data (i32.const 64) "INSERT INTO sent (told) VALUES (1)")
    (data (i32.const 128) "mail.sent")
    (data (i32.const 144) "{}")
    (data (i32.const 160) "no")
    ;; A statement without parameters, at 256, and an event, at 320.
    (data (i32.const 256) "\40\00\00\00\22\00\00\00\00\00\00\00\00\00\00\00")
    (data (i32.const 320) "\80\00\00\00\09\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\90\00\00\00\02\00\00\00")
    ;; The first four letters of a text.
    (func $is (param $text i32) (param $letters i32) (result i32)
      (i32.eq (i32.load (local.get $text)) (local.get $letters)))
    (func $must (param $answer i32)
      (if (i32.load8_u (local.get $answer)) (then unreachable)))
    (func $tell
      (call $batch (i32.const 256) (i32.const 1) (i32.const 320) (i32.const 1) (i32.const 1024))
      (call $must (i32.const 1024)))
    (func $verdict (param $case i32) (result i32)
      (i64.store (i32.const 2048) (i64.const 0))
      (i64.store (i32.const 2056) (i64.const 0))
      (i32.store8 (i32.const 2048) (local.get $case))
      (if (i32.eq (local.get $case) (i32.const 2))
        (then (i32.store (i32.const 2056) (i32.const 160)) (i32.store (i32.const 2060) (i32.const 2))))
      (i32.const 2048))
    ;; In memory, the event's subject is at 24, its text at 28.
    (func (export "handle") (param $event i32) (result i32) (local $do i32)
      (local.set $do (i32.load offset=28 (local.get $event)))
      (if (call $is (local.get $do) (i32.const 0x656e6f6e)) (then (return (call $verdict (i32.const 0)))))     ;; none
      (if (call $is (local.get $do) (i32.const 0x6c6c6574)) (then                                             ;; tell
        (call $tell) (return (call $verdict (i32.const 0)))))
      (if (call $is (local.get $do) (i32.const 0x6574756d)) (then (call $tell) unreachable))                  ;; mute
      (call $execute (i32.const 64) (i32.const 34) (i32.const 0) (i32.const 0) (i32.const 1024))
      (if (i32.load8_u (i32.const 1024)) (then (return (call $verdict (i32.const 1)))))
      (if (call $is (local.get $do) (i32.const 0x70617274)) (then unreachable))                               ;; trap
      (if (call $is (local.get $do) (i32.const 0x72746572)) (then (return (call $verdict (i32.const 1)))))     ;; retr(y)
      (if (call $is (local.get $do) (i32.const 0x2d796173)) (then (return (call $verdict (i32.const 2)))))     ;; say-(no)
      (if (i32.or (call $is (local.get $do) (i32.const 0x6e65706f)) (call $is (local.get $do) (i32.const 0x7473656e)))
        (then                                                                                                 ;; open, nest
          (call $begin (i32.const 1024))
          (call $must (i32.const 1024))
          (call $execute-in (i32.load (i32.const 1028)) (i32.const 64) (i32.const 34) (i32.const 0) (i32.const 0)
            (i32.const 1088))
          (call $must (i32.const 1088))
          (call $publish (i32.load (i32.const 1028)) (i32.const 128) (i32.const 9) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 144) (i32.const 2)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1152))
          (call $must (i32.const 1152))
          (if (call $is (local.get $do) (i32.const 0x7473656e)) (then
            (call $commit (i32.load (i32.const 1028)) (i32.const 1088))
            (call $must (i32.const 1088))))))
      (call $verdict (i32.const 0))))
  (core instance $service (instantiate $service
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "execute" (func $execute)) (export "begin" (func $begin)) (export "execute-in" (func $execute-in))
      (export "commit" (func $commit)) (export "publish" (func $publish)) (export "batch" (func $batch))))))

  (func $handle async (param "event" $event) (result $verdict)
    (canon lift (core func $service "handle") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "wharf:messaging/handler@0.1.0" (instance $handler))
)
