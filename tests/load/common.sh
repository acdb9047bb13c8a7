# common.sh: what the load scripts share; to be sourced by one in this folder, with `set -euo pipefail` before.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
wharf=$root/target/release/wharf
port=${PORT:-3900}
work=$(mktemp -d "${TMPDIR:-/tmp}/wharf-load.XXXXXX")
host=
# A host that a failed run leaves behind would hold the port.
trap '[ -z "$host" ] || kill "$host" 2> /dev/null; rm -rf "$work"' EXIT
[ -d "$here/out/shop" ] || { echo "tests/load/out/shop is missing: run prepare.sh" >&2; exit 1; }

need() { # need TOOL=PACKAGE…: says what is missing
    for it in "$@"; do
        command -v "${it%=*}" > /dev/null || { echo "${it%=*} is missing: apt-get install ${it#*=}" >&2; exit 1; }
    done
}

# A run gets a folder of its own (`mktemp -d "$work/run.XXXX"`), and all of them are deleted at the end: where many files were
# deleted, ext4 does not use their inodes again for minutes, and looks for others at each file that it makes.
shop() { # shop FOLDER: a copy of the template, at our port
    mkdir -p "$1"
    cp -a "$here/out/shop/." "$1"
    sed -i "s/^listen = .*/listen = \"127.0.0.1:$port\"/" "$1/wharf.toml"
}

start() { # start FOLDER: a host of the application in it
    "$wharf" up --manifest "$1/wharf.toml" --access-log off --no-watch 2> "$work/log" &
    host=$!
    until grep -qs Ready "$work/log"; do kill -0 $host; sleep 0.05; done
}

stop() {
    kill -TERM $host
    wait $host || true
    host=
}

register() { # a new user's id, as soon as there is one
    local id
    until id=$(curl -sf "http://127.0.0.1:$port/api/users" -H 'content-type: application/json' \
        -d "{\"name\": \"Ada\", \"email\": \"ada-$RANDOM-$RANDOM@example.org\"}" | grep -o '"id":"[^"]*"' | cut -d'"' -f4)
    do kill -0 $host; done
    echo "$id"
}
