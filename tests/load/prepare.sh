#!/bin/bash
# Builds what the load runs need into out/, and writes wharf.json for a harness.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v sqlite3 >/dev/null || { echo "sqlite3 is missing: apt-get install sqlite3" >&2; exit 1; }

cd "$root"
cargo build --release -p wharf
wharf=$root/target/release/wharf
rm -rf "$here/out"
mkdir -p "$here/out/shop" "$here/out/hello-p2" "$here/out/hello-p3"

# The shop as it is, with its components as ready files and room for 32 clients at a time.
"$wharf" build
sed -E 's|^source = "components/([a-z]+)"|component = "\1.wasm"|; s|^file = "components/|file = "|' \
  wharf.toml > "$here/out/shop/wharf.toml"
cp components/openapi.json "$here/out/shop"
for service in user product order payment inventory checkout notification; do
  cp "components/target/wasm32-wasip2/release/$service.wasm" "$here/out/shop"
done

for hello in hello-p2 hello-p3; do
  cat > "$here/out/$hello/wharf.toml" <<TOML
[app]
name = "$hello"
[gateway]
listen = "127.0.0.1:0"
[services.hello]
source = "$root/tests/guests/$hello"
[[gateway.routes]]
path = "/"
service = "hello"
TOML
  "$wharf" build --manifest "$here/out/$hello/wharf.toml"
  cp "tests/guests/target/wasm32-wasip2/release/${hello//-/_}.wasm" "$here/out/$hello/hello.wasm"
  sed -i 's|^source = .*|component = "hello.wasm"|' "$here/out/$hello/wharf.toml"
done

# One start each compiles the components into the cache and makes the schemas.
for app in shop hello-p2 hello-p3; do
  sed -i 's/^listen = .*/listen = "127.0.0.1:0"/' "$here/out/$app/wharf.toml"
  "$wharf" up --manifest "$here/out/$app/wharf.toml" --access-log off --no-watch 2> "$here/out/$app.log" &
  host=$!
  until grep -q Ready "$here/out/$app.log"; do kill -0 $host; sleep 0.05; done
  kill -TERM $host
  wait $host
done
for k in $(seq 1 20); do
  echo "INSERT INTO products (id, name, price, in_stock)
        VALUES ('p-$k', 'Product $k', $k * 100 + 50, 1);"
done | sqlite3 "$here/out/shop/.wharf/db/product.sqlite"

python3 - "$here" > "$here/wharf.json" <<'PY'
import json, sys
serve = f"{sys.argv[1]}/serve.sh"
def system(name, app, scenarios):
    return {"name": name, "cmd": [serve, "{port}", app], "scenarios": scenarios}
print(json.dumps([
    system("wharf, 0.2 guest", "hello-p2", ["hello"]),
    system("wharf, 0.3 guest", "hello-p3", ["hello"]),
    system("wharf, the shop", "shop", ["users", "orders", "dashboard"]),
], indent=1))
PY
echo "wrote $here/wharf.json"
