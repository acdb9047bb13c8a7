#!/bin/bash
# serve.sh PORT APP: becomes a host that serves APP (shop, hello-p2 or hello-p3) on 127.0.0.1:PORT, from fresh data.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=$1 app=$2
data=$(mktemp -d "${TMPDIR:-/tmp}/wharf-load.XXXXXX")
cp -a "$here/out/$app/." "$data"
sed -i "s/^listen = .*/listen = \"127.0.0.1:$port\"/" "$data/wharf.toml"
exec "$here/../../target/release/wharf" up --manifest "$data/wharf.toml" --access-log "$data/access.log" --no-watch
