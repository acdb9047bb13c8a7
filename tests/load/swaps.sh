#!/bin/bash
# swaps.sh [SECONDS] [SWAPS]: what callers feel while services are replaced again and again.
# The shop under wrk with 32 connections: products (HTTP), orders placed (typed calls from order to user and product, and an
# event each) and users read. Twice, for so long, with so many deploys spread over the time, of order, user, product and
# notification in turn: first of what runs already, which does nothing but costs the machine what the command costs, and then
# of the same code with another custom section each time, so that it is a component of its own.
# A request that is not answered with a 2xx fails the run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
seconds=${1:-60} swaps=${2:-100} port=${PORT:-3900} connections=32
wharf=$here/../../target/release/wharf
for tool in wrk curl python3; do
    command -v $tool >/dev/null || { echo "$tool is missing: apt-get install $tool" >&2; exit 1; }
done
[ -d "$here/out/shop" ] || { echo "tests/load/out/shop is missing: run prepare.sh" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/wharf-swaps.XXXXXX")
host=
# A host that a failed run leaves behind would hold the port.
trap '[ -z "$host" ] || kill "$host" 2> /dev/null; rm -rf "$work"' EXIT

variant() { # variant SERVICE N: the service's component with a custom section of its own
    python3 - "$work/run/$1.wasm" "$2" "$work/variant.wasm" <<'PY'
import sys
wasm, n, out = open(sys.argv[1], "rb").read(), sys.argv[2].encode(), sys.argv[3]
name = b"variant"
content = bytes([len(name)]) + name + n
open(out, "wb").write(wasm + b"\0" + bytes([len(content)]) + content)
PY
}

run() { # run NAME SWAPS: SWAPS is `none` for deploys of what runs already
    rm -rf "$work/run"
    cp -a "$here/out/shop" "$work/run"
    sed -i "s/^listen = .*/listen = \"127.0.0.1:$port\"/" "$work/run/wharf.toml"
    "$wharf" up --manifest "$work/run/wharf.toml" --access-log off --no-watch 2> "$work/log" &
    host=$!
    until grep -q Ready "$work/log"; do kill -0 $host; sleep 0.05; done
    local user
    user=$(curl -sf "http://127.0.0.1:$port/api/users" -H 'content-type: application/json' \
        -d '{"name": "Ada", "email": "ada@example.org"}' | grep -o '"id":"[^"]*"' | cut -d'"' -f4)
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
end
LUA
    wrk -t1 -c$connections -d2s -s "$work/mix.lua" "http://127.0.0.1:$port" > /dev/null
    wrk -t1 -c$connections -d"${seconds}s" -s "$work/mix.lua" "http://127.0.0.1:$port" > "$work/wrk" & local load=$!
    local services=(order user product notification) done=0 began=$EPOCHREALTIME
    while [ $done -lt "$swaps" ]; do
        variant "${services[done % 4]}" $done
        [ "$2" != none ] || cp "$work/run/${services[done % 4]}.wasm" "$work/variant.wasm"
        "$wharf" deploy "${services[done % 4]}" "$work/variant.wasm" --manifest "$work/run/wharf.toml" 2>> "$work/deploys"
        done=$((done + 1))
        # The next one when its time has come.
        python3 -c "import time; time.sleep(max(0, $began + $done * ($seconds - 2) / $swaps - time.time()))"
    done
    wait $load
    local events
    events=$("$wharf" status --manifest "$work/run/wharf.toml" --json | python3 -c '
import json, sys
events = json.load(sys.stdin)["events"]
dead = sum(s.get("dead") or 0 for s in events["subscriptions"])
print(events["published"], "events published,", dead, "dead")')
    kill -TERM $host
    wait $host || true
    host=
    echo "$1: $(tail -1 "$work/wrk"); $done deploys, $events"
}

run "deploys of what runs" none
run "swaps" all
