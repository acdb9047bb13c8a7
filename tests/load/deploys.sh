#!/bin/bash
# deploys.sh [ROUNDS]: how long it takes from `wharf deploy` to an answer of the new revision, how long a rollback takes, and how
# long a host with everything in its cache needs from its start to the first 200. The deploys are of the shop's product service
# with another custom section each time, so each is compiled; the command returns when the new revision
# serves, and a request after it is part of the time.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rounds=${1:-10}
need python3=python3
shop "$work/run"

python3 - "$wharf" "$work" "$port" "$rounds" <<'PY'
import http.client, signal, statistics, subprocess, sys, time

wharf, work, port, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
manifest = f"{work}/run/wharf.toml"

def get(path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status

def start():
    began = time.perf_counter()
    host = subprocess.Popen([wharf, "up", "--manifest", manifest, "--access-log", "off", "--no-watch"],
                            stderr=subprocess.DEVNULL)
    while True:
        try:
            if get("/api/products/p-1") == 200:
                return host, time.perf_counter() - began
        except OSError:
            time.sleep(0.0005)

def stop(host):
    host.send_signal(signal.SIGTERM)
    host.wait()

def said(what, times):
    ms = sorted(1000 * t for t in times)
    print(f"{what}: median {statistics.median(ms):.0f} ms, {ms[0]:.0f} to {ms[-1]:.0f} ms, {len(ms)} times")

# The first start compiles nothing that is in the template's cache, but it may warm the disk's.
stop(start()[0])
starts = []
for _ in range(rounds):
    host, took = start()
    starts.append(took)
    stop(host)
said("from the start to the first 200, everything in the cache", starts)

host, _ = start()
component = open(f"{work}/run/product.wasm", "rb").read()
deploys, backs = [], []
for n in range(rounds):
    name, text = b"variant", f"{time.time()} {n}".encode()
    content = bytes([len(name)]) + name + text
    open(f"{work}/new.wasm", "wb").write(component + b"\0" + bytes([len(content)]) + content)
    began = time.perf_counter()
    subprocess.run([wharf, "deploy", "product", f"{work}/new.wasm", "--manifest", manifest], check=True,
                   stderr=subprocess.DEVNULL)
    assert get("/api/products/p-1") == 200
    deploys.append(time.perf_counter() - began)
    began = time.perf_counter()
    subprocess.run([wharf, "rollback", "product", "--manifest", manifest], check=True, stderr=subprocess.DEVNULL)
    assert get("/api/products/p-1") == 200
    backs.append(time.perf_counter() - began)
said(f"from `wharf deploy` to an answer of the new revision, {len(component) // 1000} KB", deploys)
said("from `wharf rollback` to an answer of the old one", backs)
stop(host)
PY
