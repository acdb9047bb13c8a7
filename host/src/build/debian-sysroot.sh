#!/bin/sh
# Makes a Rust toolchain for wasm32-wasip2 from Debian's packages, for machines where rustup has not
# got the target.
#
#   sh debian-sysroot.sh CACHE_FOLDER CARGO
#
# Prints the folder of the finished toolchain on stdout (nothing else) and progress on stderr, where a last line
# "error: ..." says why there is none.
#
# Everything lands in CACHE_FOLDER: the packages are downloaded with apt's own verification, under a
# private sources list and private state folders, and unpacked with `dpkg -x`. Nothing is installed,
# nothing of the system changes, root is not needed. CARGO builds the standard library once.
#
# Layout of the finished toolchain:
#   bin/rustc, bin/cargo-clippy     wrappers that find the unpacked libraries
#   root/usr                        the unpacked packages; also the sysroot for wasm32-wasip2
set -eu
umask 022

cache=$1
cargo=$2

# Raised whenever this script makes something different from the same packages.
recipe=1

current=$cache/debian-wasip2-$recipe
ready() {
    [ -x "$current/bin/rustc" ] || return 1
    (cd -P "$current" && pwd)
}
ready && exit 0

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

for tool in apt-get dpkg dpkg-deb flock sha256sum; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool: not found (is this a Debian machine?)"
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || fail "$keyring: not found (package debian-archive-keyring)"

mkdir -p "$cache"
cache=$(cd -P "$cache" && pwd)
current=$cache/debian-wasip2-$recipe

# One build at a time. Who had to wait finds the work done.
exec 9>"$cache/debian-wasip2.lock"
if ! flock -n 9; then
    say "waiting for another process that builds the toolchain for wasm32-wasip2"
    flock 9
fi
ready && exit 0

# Left behind by a build that was killed. The lock is ours, so nobody works in them.
rm -rf "$cache"/debian-wasip2-build.*
work=$(mktemp -d "$cache/debian-wasip2-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# quietly COMMAND...: its output goes to a log, for the one who fails.
quietly() { "$@" </dev/null >"$work/log" 2>&1 9>&-; }

# What apt gave as its reason.
reason() { sed -n 's/^E: //p' "$work/log" | head -n 1; }

# mirrors LABEL PUBLIC: the mirrors of the machine's own apt sources, then Debian's public one.
mirrors() {
    {
        apt-get indextargets --format '$(LABEL) $(REPO_URI)' 2>/dev/null |
            sed -n "s|^$1 \(https\{0,1\}://.*[^/]\)/*\$|\1|p"
        printf '%s\n' "$2"
    } | awk '!seen[$0]++'
}

# private_apt NAME COMMAND...: apt-get with the sources of $work/NAME and no trace
# outside of it. Only the list of what is installed is the system's, and is only read.
private_apt() {
    name=$1
    shift
    sandbox=
    [ "$(id -u)" -ne 0 ] || sandbox=-oAPT::Sandbox::User=root
    apt-get -q ${sandbox:+"$sandbox"} \
        -oDir::Etc::sourcelist="$work/$name/sources.list" -oDir::Etc::sourceparts=/dev/null \
        -oDir::Etc::preferences=/dev/null -oDir::Etc::preferencesparts=/dev/null \
        -oDir::State::Lists="$work/$name/lists" \
        -oDir::State::extended_states="$work/$name/extended_states" \
        -oDir::Cache="$work/$name/cache" -oDir::Log="$work/$name/log" \
        -oAPT::Get::List-Cleanup=0 -oDebug::NoLocking=1 -oAcquire::Languages=none "$@"
}

# open_source NAME LINE...: makes $work/NAME and fetches the package lists of the sources LINE.
open_source() {
    name=$1
    shift
    rm -rf "${work:?}/$name"
    mkdir -p "$work/$name/lists/partial" "$work/$name/cache/archives/partial" "$work/$name/log"
    printf "deb [signed-by=$keyring] %s main\n" "$@" >"$work/$name/sources.list"
    quietly private_apt "$name" update -oAPT::Update::Error-Mode=any
}

debian=$(mirrors Debian http://deb.debian.org/debian)
security=$(mirrors Debian-Security http://deb.debian.org/debian-security)

say "Rust's target wasm32-wasip2 is missing (\`rustup target add wasm32-wasip2\` would install it)"
say "fetching Debian's Rust compiler and libc in its place (150 MB, once) into $cache"

# The compiler: kept up to date in bookworm for the sake of browsers, and newer than the other
# packages there. --download-only brings the libraries that this machine lacks.
rust_from_mirrors() {
    for main in $debian; do
        for updates in $security; do
            open_source rust "$main bookworm" "$updates bookworm-security" &&
                quietly private_apt rust install --yes --download-only --reinstall \
                    --no-install-recommends rustc-web libstd-rust-web-dev rust-web-src &&
                (cd "$work/rust" && quietly private_apt rust download rust-web-clippy) &&
                return 0
        done
    done
    return 1
}
rust_from_mirrors || fail "packages rustc-web and rust-web-src: $(reason)"

# The libc: bookworm's knows no wasip2. Only the files are taken.
libc_from_mirrors() {
    for main in $debian; do
        open_source libc "$main trixie" &&
            (cd "$work/libc" && quietly private_apt libc download wasi-libc) && return 0
    done
    return 1
}
libc_from_mirrors || fail "package wasi-libc of trixie: $(reason)"

new=$work/toolchain
mkdir -p "$new/root" "$new/bin"
for package in "$work"/rust/cache/archives/*.deb "$work"/rust/*.deb; do
    quietly dpkg -x "$package" "$new/root" || fail "$package could not be unpacked"
done
quietly dpkg -x "$work"/libc/wasi-libc_*.deb "$work/libc/root" || fail "wasi-libc could not be unpacked"
libc_version=$(dpkg-deb -f "$work"/libc/wasi-libc_*.deb Version)

libraries=$(find "$new/root/usr/lib" -name 'librustc_driver-*.so' | head -n 1)
[ -n "$libraries" ] || fail "package rustc-web: no librustc_driver in it"
libraries=${libraries#"$new/"}
for program in rustc cargo-clippy; do
    cat >"$new/bin/$program" <<WRAPPER
#!/bin/sh
here=\${0%/*}/..
LD_LIBRARY_PATH=\$here/${libraries%/*}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "\$here/root/usr/bin/$program" "\$@"
WRAPPER
    chmod +x "$new/bin/$program"
done
sysroot=$new/root/usr
version=$("$new/bin/rustc" -vV | sed -n 's/^release: //p') || version=
[ -n "$version" ] || fail "the unpacked compiler does not run: $new/bin/rustc -vV"

say "building the standard library for wasm32-wasip2 with rustc $version (about 2 minutes, once)"

mkdir -p "$work/empty/src"
echo '#![no_std]' >"$work/empty/src/lib.rs"
cat >"$work/empty/Cargo.toml" <<MANIFEST
[package]
name = "empty"
version = "0.0.0"
edition = "2024"

[profile.release]
panic = "abort"

[workspace]
MANIFEST

# embed-bitcode: without it a guest can't be built with link-time optimisation. The paths are
# remapped because they end up in the panic messages of every guest.
separator=$(printf '\037')
build_std() (
    cd "$work/empty"
    unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
    CARGO_ENCODED_RUSTFLAGS="-Cembed-bitcode=yes$separator--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$version$separator--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        RUSTC=$new/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work/target \
        __CARGO_TESTS_ONLY_SRC_ROOT=$sysroot/lib/rustlib/src/rust/library \
        quietly "$cargo" build -Zbuild-std=std,panic_abort,test --target wasm32-wasip2 --release
)
if ! build_std; then
    tail -n 30 "$work/log" >&2
    fail "the standard library for wasm32-wasip2 could not be built"
fi

lib=$sysroot/lib/rustlib/wasm32-wasip2/lib
mkdir -p "$lib/self-contained"
cp "$work"/target/wasm32-wasip2/release/deps/*.rlib "$lib"
rm -f "$lib"/libempty-*.rlib
for file in libc.a crt1-command.o crt1-reactor.o; do
    cp "$work/libc/root/usr/lib/wasm32-wasip2/$file" "$lib/self-contained/" ||
        fail "package wasi-libc: no $file for wasip2 in it"
done
# The sources are four fifths of the whole and have served.
rm -rf "$sysroot/src" "$sysroot/share" "$sysroot/lib/rustlib/src"

# The path holds the versions and a hash of the libraries: cargo sees a change of the path, but not
# of the libraries behind it, and would mix old guests' crates with a new standard library.
hash=$(cd "$lib" && cat ./*.rlib self-contained/* | sha256sum | cut -c1-12)
name=debian-wasip2-$recipe-rust-$version-libc-$(printf %s "$libc_version" | tr -c 'A-Za-z0-9.+~' _)-$hash
[ -d "$cache/$name" ] || mv "$new" "$cache/$name"
ln -s "$name" "$work/current"
mv -fT "$work/current" "$current"
say "toolchain for wasm32-wasip2 is ready"
ready
