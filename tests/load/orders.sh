#!/bin/bash
# orders.sh [ROUNDS] [SECONDS] [CONNECTIONS…]: what it costs to place an order together with its event, beside placing it alone.
# Both are the shop under wrk. "with" is the shop as it is: `POST /api/orders` writes the row and its event in one
# transaction, and the relay takes the event to the embedded log meanwhile. "without" is the same shop with an order service
# that differs in one line: it writes the row by `db::batch` and publishes nothing. It is built from a copy of its source,
# and the script fails where that line is not found. Everything else is done by both: the calls to users and products, the
# gateway, policies, the write itself.
# Each round runs both, in turn first. A closed loop, so 1000 * connections / rate is the time an order takes, in ms; CPU is
# that of the host, what the relay needs after the load included: the clock stops when the outbox is empty.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rounds=${1:-3} seconds=${2:-8}
connections=("${@:3}")
[ ${#connections[@]} -gt 0 ] || connections=(1 16)
need wrk=wrk sqlite3=sqlite3 curl=curl python3=python3

variant() { # variant FILE: an order service that does not publish what it places
    local copy=$here/out/without
    mkdir -p "$copy"
    rm -rf "$copy/components/order"
    (cd "$root" && tar cf - --exclude=components/target components wit rust-toolchain.toml) | tar xf - -C "$copy"
    python3 - "$copy/components/order/src/lib.rs" <<'PY'
import sys
file = sys.argv[1]
text = open(file).read()
line = 'db::batch_and_publish(statements, vec![event]).await.map(drop)'
# The event is still made: what is compared is what the host does with it.
without = 'let _ = event; db::batch(statements).await.map(drop).map_err(OutboxError::Store)'
assert text.count(line) == 1, f"{file} no longer has the line that is left out: {line}"
open(file, "w").write(text.replace(line, without))
PY
    printf '[app]\nname = "without"\n[services.order]\nsource = "components/order"\n' > "$copy/wharf.toml"
    "$wharf" build --manifest "$copy/wharf.toml" >&2
    cp "$copy/components/target/wasm32-wasip2/release/order.wasm" "$1"
}

cpu() { # cpu PID: seconds that it has computed
    awk -v tick="$(getconf CLK_TCK)" '{ print ($14 + $15) / tick }' "/proc/$1/stat"
}

run() { # run NAME CONNECTIONS: prints "rate microseconds-of-cpu p50 p99"
    local folder user
    folder=$(mktemp -d "$work/run.XXXX")
    cp -a "$work/$1/." "$folder"
    start "$folder"
    user=$(register)
    cat > "$work/order.lua" <<LUA
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local n = 0
function request()
    n = n % 20 + 1
    return wrk.format(nil, nil, nil, '{"userId": "$user", "items": [{"productId": "p-' .. n .. '", "quantity": 2}]}')
end
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("%d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99)))
    if errors.status + errors.connect + errors.read + errors.write + errors.timeout > 0 then
        io.stderr:write("not all orders were placed\n")
        os.exit(1)
    end
end
LUA
    # Warm, and not counted.
    wrk -t1 -c"$2" -d1s -s "$work/order.lua" "http://127.0.0.1:$port/api/orders" > /dev/null
    local before after waits
    before=$(cpu $host)
    wrk -t1 -c"$2" -d"${seconds}s" -s "$work/order.lua" "http://127.0.0.1:$port/api/orders" > "$work/wrk"
    waits=$(sqlite3 -readonly "$folder/.wharf/db/order.sqlite" 'SELECT COUNT(*) FROM _wharf_outbox')
    until [ "$(sqlite3 -readonly "$folder/.wharf/db/order.sqlite" 'SELECT COUNT(*) FROM _wharf_outbox')" = 0 ]; do
        sleep 0.05
    done
    after=$(cpu $host)
    stop
    tail -1 "$work/wrk" | awk -v cpu="$after $before" -v waits="$waits" '{ split(cpu, at, " ")
        printf "%.1f %.1f %.3f %.3f %d\n", $1 / $2 * 1e6, (at[1] - at[2]) / $1 * 1e6, $3 / 1000, $4 / 1000, waits }'
}

for name in with without; do shop "$work/$name"; done
variant "$work/without/order.wasm"
if cmp -s "$work/with/order.wasm" "$work/without/order.wasm"; then echo "the two do not differ" >&2; exit 1; fi
# One start each compiles what is not in the cache.
for name in with without; do
    start "$work/$name"
    stop
done

echo "each round: orders for $seconds s, without and with their events"
for round in $(seq "$rounds"); do
    for clients in "${connections[@]}"; do
        # Who is second finds a warmer machine.
        order=(without with)
        [ $((round % 2)) = 1 ] || order=(with without)
        for name in "${order[@]}"; do run "$name" "$clients" > "$work/$name.result"; done
        paste "$work/without.result" "$work/with.result" | awk -v clients="$clients" '{
            printf "%d connections: %.0f / %.0f orders/s (time for each: %.2f times as long), CPU %.0f / %.0f µs (%.2f times), ",
                clients, $1, $6, $1 / $6, $2, $7, $7 / $2
            printf "p50 %.2f / %.2f ms, p99 %.2f / %.2f ms, %d events waited at the end\n", $3, $8, $4, $9, $10 }'
    done
done
