#!/bin/bash
# neighbours.sh [ROUNDS] [SECONDS]: what other services' callers feel of a service that fails half its calls, and how many
# calls its retries add. Fixed rates, since a load that waits for its answers would slow down with what fails.
# Each round runs the shop twice, with the user service well and with half of the calls to it failing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rounds=${1:-3} seconds=${2:-8} clients=8 rate=125
need h2load=nghttp2-client curl=curl python3=python3

load() { # load PATH LOG
    h2load --h1 -t1 -c$clients --rps=$rate -D"$seconds" --log-file="$2" "http://127.0.0.1:$port$1" > /dev/null
}

quantiles() { # quantiles LOG
    sort -n -k3,3 "$1" | awk '$2 == 200 { good++ } { time[NR] = $3 }
        END { printf "%d requests, %.1f%% with 200, p50 %.2f ms, p99 %.2f ms", NR, 100 * good / NR,
              time[int(NR * 0.5) + 1] / 1000, time[int(NR * 0.99) + 1] / 1000 }'
}

run() { # run NAME
    start "$work/$1"
    # The first attempts may be among those that fail.
    local id
    id=$(register)
    rm -f "$work"/*.log # h2load adds to what is there
    load "/api/users/$id" "$work/user.log" & local user=$!
    load /api/products/p-1 "$work/product.log"
    wait $user
    "$wharf" status --manifest "$work/$1/wharf.toml" --json > "$work/status.json"
    stop
    echo "$1: product: $(quantiles "$work/product.log"); user: $(quantiles "$work/user.log")"
    python3 - "$work/status.json" <<'PY'
import json, sys
edge = next(e for e in json.load(open(sys.argv[1]))["edges"] if e["edge"] == "gateway -> user")
calls, retries = edge["calls"], edge["retries"]
print(f"    gateway -> user: {calls} calls, {retries} retries ({100 * retries / max(calls, 1):.1f}% more), "
      f"{edge['refused_retries']} refused by the budget, {edge['injected']} faults injected")
PY
}

for app in well failing; do shop "$work/$app"; done
# A trap is tried again, for a GET is safe; the breaker only counts, or it would end the experiment.
cat >> "$work/failing/wharf.toml" <<'TOML'

[policy.edges."gateway -> user"]
breaker = { mode = "metrics-only" }
retry = { attempts = 3, budget = { percent = 20, min-per-second = 10 } }
inject = { percent = 50, fault = "trapped" }
TOML
echo "each round: $clients connections of $rate requests a second on each of two services, for $seconds s"
for _ in $(seq "$rounds"); do run well; run failing; done
