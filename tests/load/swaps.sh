#!/bin/bash
# swaps.sh [SECONDS] [SWAPS]: what callers feel while services are replaced again and again.
# The shop under wrk with 32 connections: products (HTTP), orders placed (typed calls from order to user and product, and an
# event each) and users read. Twice, for so long, with so many deploys spread over the time, of order, user, product and
# notification in turn: first of what runs already, which does nothing but costs the machine what the command costs, and then
# of the same code with another custom section each time, so that it is a component of its own.
# A request that is not answered with a 2xx fails the run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seconds=${1:-60} swaps=${2:-100} connections=32
need wrk=wrk curl=curl python3=python3

variant() { # variant SERVICE N: the service's component with a custom section of its own
    python3 - "$folder/$1.wasm" "$2" "$work/variant.wasm" <<'PY'
import sys
wasm, n, out = open(sys.argv[1], "rb").read(), sys.argv[2].encode(), sys.argv[3]
name = b"variant"
content = bytes([len(name)]) + name + n
open(out, "wb").write(wasm + b"\0" + bytes([len(content)]) + content)
PY
}

run() { # run NAME SWAPS: SWAPS is `none` for deploys of what runs already
    local folder user
    folder=$(mktemp -d "$work/run.XXXX")
    shop "$folder"
    start "$folder"
    user=$(register)
    cat > "$work/mix.lua" <<LUA
local n = 0
local json = { ["content-type"] = "application/json" }
function request()
    n = n + 1
    if n % 20 == 0 then
        return wrk.format("POST", "/api/orders", json,
            '{"userId": "$user", "items": [{"productId": "p-' .. n % 19 + 1 .. '", "quantity": 2}]}')
    elseif n % 20 == 10 then
        return wrk.format("GET", "/api/users/$user")
    end
    return wrk.format("GET", "/api/products/p-" .. n % 19 + 1)
end
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("%d requests, %.0f/s, p50 %.2f ms, p99 %.2f ms, max %.1f ms; not 2xx %d, broken %d\n",
        summary.requests, summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000,
        latency:percentile(99) / 1000, latency.max / 1000, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
    if errors.status + errors.connect + errors.read + errors.write + errors.timeout > 0 then
        io.stderr:write("not all requests were answered\n")
        os.exit(1)
    end
end
LUA
    wrk -t1 -c$connections -d2s -s "$work/mix.lua" "http://127.0.0.1:$port" > /dev/null
    wrk -t1 -c$connections -d"${seconds}s" -s "$work/mix.lua" "http://127.0.0.1:$port" > "$work/wrk" & local load=$!
    local services=(order user product notification) done=0 began=$EPOCHREALTIME
    while [ $done -lt "$swaps" ]; do
        variant "${services[done % 4]}" $done
        [ "$2" != none ] || cp "$folder/${services[done % 4]}.wasm" "$work/variant.wasm"
        "$wharf" deploy "${services[done % 4]}" "$work/variant.wasm" --manifest "$folder/wharf.toml" 2>> "$work/deploys"
        done=$((done + 1))
        # The next one when its time has come.
        python3 -c "import time; time.sleep(max(0, $began + $done * ($seconds - 2) / $swaps - time.time()))"
    done
    wait $load
    local events
    events=$("$wharf" status --manifest "$folder/wharf.toml" --json | python3 -c '
import json, sys
events = json.load(sys.stdin)["events"]
dead = sum(s.get("dead") or 0 for s in events["subscriptions"])
print(events["published"], "events published,", dead, "dead")')
    stop
    echo "$1: $(tail -1 "$work/wrk"); $done deploys, $events"
}

run "deploys of what runs" none
run "swaps" all
