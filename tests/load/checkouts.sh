#!/bin/bash
# checkouts.sh [ROUNDS] [SECONDS] [CONNECTIONS…]: what a checkout costs, from the request to the confirmed order.
# "wharf" is the shop as it is, under wrk: `POST /api/checkout` with three items and `Prefer: wait=10` goes through the gateway,
# the saga and six services, each with its database, and all of it is on disk ("os": it survives the end of the host, and not a
# power failure) before it is answered; what the events lead to (mails, stock in the catalogue) goes on meanwhile. "plain" is the same
# in one function over maps in memory (`tests/examples/plain_checkout.rs`): no sandboxes, no databases, nothing left after a crash.
# A checkout that does not end COMPLETED fails the run. CPU is that of the server, what the events need included.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rounds=${1:-3} seconds=${2:-10}
connections=("${@:3}")
[ ${#connections[@]} -gt 0 ] || connections=(1 32)
need wrk=wrk curl=curl python3=python3
plain=$root/target/release/examples/plain_checkout
[ -x "$plain" ] || (cd "$root" && cargo build --release -p wharf-tests --example plain_checkout)

cpu() { # cpu PID: seconds that it has computed
    awk -v tick="$(getconf CLK_TCK)" '{ print ($14 + $15) / tick }' "/proc/$1/stat"
}

start_plain() {
    "$plain" "$port" 2> "$work/log" &
    host=$!
    until grep -qs Ready "$work/log"; do kill -0 $host; sleep 0.05; done
}

quiet() { # until the host has nothing to do: less than a tenth of a core
    local before after
    before=$(cpu $host)
    while sleep 0.5; after=$(cpu $host); awk -v a="$after" -v b="$before" 'BEGIN { exit !(a - b > 0.05) }'; do before=$after; done
}

load() { # load CONNECTIONS SECONDS USER
    cat > "$work/checkout.lua" <<LUA
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["prefer"] = "wait=10"
local n = 0
function request()
    n = n % 18 + 1
    return wrk.format(nil, nil, nil, '{"userId": "$3", "items": [{"productId": "p-' .. n .. '", "quantity": 1}, '
        .. '{"productId": "p-' .. n + 1 .. '", "quantity": 2}, {"productId": "p-' .. n + 2 .. '", "quantity": 1}]}')
end
other = 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
    if not body:find('"COMPLETED"', 1, true) then other = other + 1 end
end
function done(summary, latency)
    local errors, others = summary.errors, 0
    for _, thread in ipairs(threads) do others = others + thread:get("other") end
    io.write(string.format("%d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99)))
    if others + errors.status + errors.connect + errors.read + errors.write + errors.timeout > 0 then
        io.stderr:write(string.format("not all checkouts were completed: %d\n", others))
        os.exit(1)
    end
end
LUA
    wrk -t1 -c"$1" -d"$2s" -s "$work/checkout.lua" "http://127.0.0.1:$port/api/checkout"
}

run() { # run NAME CONNECTIONS: prints its figures
    local user=u-1 folder before after
    if [ "$1" = plain ]; then
        start_plain
    else
        folder=$(mktemp -d "$work/run.XXXX")
        shop "$folder"
        start "$folder"
        user=$(register)
        for k in $(seq 20); do
            curl -sf -X PUT "http://127.0.0.1:$port/api/inventory/p-$k" -H 'content-type: application/json' \
                -d '{"quantity": 1000000}' > /dev/null
        done
    fi
    # Warm, and not counted.
    load "$2" 1 "$user" > /dev/null
    before=$(cpu $host)
    load "$2" "$seconds" "$user" > "$work/wrk"
    quiet
    after=$(cpu $host)
    stop
    tail -1 "$work/wrk" | awk -v cpu="$after $before" '{ split(cpu, at, " ")
        printf "%.0f/s, p50 %.2f ms, p99 %.2f ms, CPU %.0f µs", $1 / $2 * 1e6, $3 / 1000, $4 / 1000, (at[1] - at[2]) / $1 * 1e6 }'
}

for round in $(seq "$rounds"); do
    for clients in "${connections[@]}"; do
        for name in wharf plain; do run "$name" "$clients" > "$work/$name.result"; done
        echo "$clients connections: wharf $(cat "$work/wharf.result"); plain $(cat "$work/plain.result")"
    done
done
