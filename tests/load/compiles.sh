#!/bin/bash
# compiles.sh [MEGABYTES] [RATE] [SECONDS]: what callers feel while a large component is compiled. The shop at a fixed rate on
# products, first left alone, then while a component of so many megabytes of code is deployed to a service that nobody calls:
# what a JavaScript or Python service is made of. SECONDS are to be what the deploy takes here, or a little less, so that there
# is no time in the second run without it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
megabytes=${1:-20} rate=${2:-1000} seconds=${3:-7} clients=8
need h2load=nghttp2-client python3=python3
shop "$work/run"
printf '\n[services.large]\ncomponent = "large.wasm"\n' >> "$work/run/wharf.toml"

python3 - "$work/run/large.wasm" "$work/large.wasm" "$megabytes" <<'PY'
import random, sys

def number(n):
    out = bytearray()
    while True:
        out.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            return bytes(out)

def section(kind, content):
    return bytes([kind]) + number(len(content)) + content

def function(random):
    # Loads, stores and calls, as in code that a compiler made.
    code = bytearray(b"\0")
    while len(code) < 1000:
        code += b"\x20\0\x20\0\x28\2" + number(random.randrange(1 << 14))
        code += b"\x10" + number(random.randrange(count)) + b"\x36\2" + number(random.randrange(1 << 14))
    code += b"\x20\0"
    return number(len(code) + 1) + bytes(code) + b"\x0b"

random = random.Random(int(sys.argv[3]))
count = int(sys.argv[3]) * 1000
module = (b"\0asm\1\0\0\0" + section(1, b"\1\x60\1\x7f\1\x7f") + section(3, number(count) + b"\0" * count) + section(5, b"\1\0\1")
          + section(10, number(count) + b"".join(function(random) for _ in range(count))))
component = b"\0asm\x0d\0\1\0"
open(sys.argv[1], "wb").write(component)
open(sys.argv[2], "wb").write(component + section(1, module))
PY

load() { # load LOG SECONDS
    h2load --h1 -t1 -c$clients --rps=$((rate / clients)) -D"$2" --log-file="$1" \
        "http://127.0.0.1:$port/api/products/p-1" > /dev/null
}
quantiles() { # quantiles LOG
    sort -n -k3,3 "$1" | awk '$2 != 200 { bad++ } { time[NR] = $3 }
        END { printf "%d requests, %d without 200, p50 %.2f ms, p99 %.2f ms, longest %.1f ms\n", NR, bad,
              time[int(NR * 0.5) + 1] / 1000, time[int(NR * 0.99) + 1] / 1000, time[NR] / 1000 }'
}

start "$work/run"
load "$work/warm" 2
load "$work/alone" "$seconds"
echo "left alone: $(quantiles "$work/alone")"
load "$work/beside" "$seconds" & load=$!
began=$EPOCHREALTIME
"$wharf" deploy large "$work/large.wasm" --manifest "$work/run/wharf.toml" 2> /dev/null
took=$(python3 -c "print(f'{$EPOCHREALTIME - $began:.1f}')")
wait $load
echo "for $seconds s while $megabytes MB are deployed, which took $took s: $(quantiles "$work/beside")"
stop
