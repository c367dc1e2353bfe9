#!/usr/bin/env bash
# Makes sure that this machine can build Accord. Called by `make run`, `make
# test` and `make check`; quick, silent and without network when nothing is
# missing. What is missing is installed with apt where that is possible without
# asking (as root, or with sudo that wants no password); everywhere else the
# script says which command to run and stops.
#
# ACCORD_NO_INSTALL=1 never installs anything: it only says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
stop() {
    echo "setup: $*" >&2
    exit 1
}

# ---- Rust ------------------------------------------------------------------

# The oldest Rust that builds us stands in Cargo.toml, and only there.
check_rust() {
    local needed found
    needed="$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml | head -n 1)"
    if ! command -v cargo >/dev/null; then
        stop "cargo is not on the PATH. Install Rust $needed or newer (https://rustup.rs) and try again."
    fi
    found="$(cargo --version | cut -d' ' -f2)"
    if ! at_least "${found%%-*}" "$needed"; then
        stop "Rust $needed or newer is needed, but cargo is version $found. With rustup: rustup update stable"
    fi
}

# at_least FOUND NEEDED: is the dotted version FOUND not older than NEEDED?
at_least() {
    [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]
}

# ---- what RocksDB needs ----------------------------------------------------

# `c++` is what cargo's `cc` crate runs unless CXX says otherwise; RocksDB is
# written in C++20, and Rust links with `cc`.
have_cxx() { command -v "${CXX:-c++}" >/dev/null && command -v "${CC:-cc}" >/dev/null; }

# bindgen reads RocksDB's C header through libclang, which it loads at run time:
# it needs the shared library, and beside it the headers that belong to the
# compiler itself (stddef.h and its like). The folders are those where
# bindgen's clang-sys looks.
have_libclang() {
    local library folder
    for library in $(libclang_libraries); do
        folder="$(dirname "$library")"
        case "$folder" in
        /usr/lib/llvm-*) any_file "$folder"/clang/*/include/stddef.h && return 0 ;;
        *)
            any_file "$folder"/clang/*/include/stddef.h \
                /usr/lib/clang/*/include/stddef.h \
                /usr/lib64/clang/*/include/stddef.h \
                /usr/lib/llvm-"$(library_version "$library")"/lib/clang/*/include/stddef.h && return 0
            ;;
        esac
    done
    return 1
}

libclang_libraries() {
    local folder
    for folder in "${LIBCLANG_PATH:-}" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu* /usr/lib /usr/lib64 /usr/local/lib; do
        if [[ -n "$folder" && -d "$folder" ]]; then
            find "$folder" -maxdepth 1 \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) 2>/dev/null
        fi
    done
}

# libclang-14.so.1, libclang-14.so.14.0.6 -> 14; libclang.so.18 -> 18
library_version() { basename "$1" | sed 's/^libclang[^0-9]*\([0-9]*\).*/\1/'; }

any_file() {
    local file
    for file in "$@"; do
        [[ -e "$file" ]] && return 0
    done
    return 1
}

# Debian and Ubuntu name libclang's packages after its version, and each release
# offers several: take the one that the release itself prefers, else the newest
# that is complete. Prints nothing when apt knows none.
libclang_packages() {
    local version
    version="$(apt-cache show libclang-dev 2>/dev/null |
        sed -n 's/^Depends:.*libclang-\([0-9]*\)-dev.*/\1/p' | head -n 1)"
    if [[ -z "$version" ]]; then
        version="$(apt-cache pkgnames libclang-common- 2>/dev/null |
            sed -n 's/^libclang-common-\([0-9]*\)-dev$/\1/p' | sort -n | tail -n 1)"
    fi
    if [[ -n "$version" ]]; then
        echo "libclang1-$version libclang-common-$version-dev"
    fi
}

# ---- installing ------------------------------------------------------------

# How apt-get may be run without a question being asked: prints the prefix, or
# fails when it may not.
privilege() {
    if [[ "$(id -u)" == 0 ]]; then
        echo "env"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        echo "sudo -n env"
    else
        return 1
    fi
}

apt() { # apt PREFIX ARGUMENT...
    local prefix="$1"
    shift
    # shellcheck disable=SC2086 # the prefix is one or more words
    $prefix DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null
}

missing_reasons() {
    if ! have_cxx; then
        echo "  a C++ compiler (g++): RocksDB, the storage engine, is built from source"
    fi
    if ! command -v make >/dev/null; then
        echo "  make: it runs this project's commands, and builds jemalloc"
    fi
    if ! have_libclang; then
        echo "  libclang and its headers: they read RocksDB's C header to make the Rust bindings"
    fi
}

missing_packages() {
    local packages=() clang=()
    if ! have_cxx; then
        packages+=(g++)
    fi
    if ! command -v make >/dev/null; then
        packages+=(make)
    fi
    if ! have_libclang; then
        # libclang-dev brings both and far more: only for an apt that knows no better.
        read -r -a clang <<<"$(libclang_packages)"
        packages+=("${clang[@]:-libclang-dev}")
    fi
    echo "${packages[*]}"
}

install_missing() {
    local prefix packages
    say "this machine lacks what the build needs:"
    missing_reasons
    if ! command -v apt-get >/dev/null; then
        stop "there is no apt-get here to install it with; use the system's own package manager (Fedora, for example: dnf install gcc-c++ make clang-devel). Set LIBCLANG_PATH if libclang lies in an unusual place."
    fi
    if [[ -n "${ACCORD_NO_INSTALL:-}" ]] || ! prefix="$(privilege)"; then
        stop "run this, then try again:  sudo apt-get update && sudo apt-get install --no-install-recommends $(missing_packages)"
    fi
    # Before the names are chosen: a new machine's package lists are empty.
    say "apt-get update"
    apt "$prefix" update -qq
    packages="$(missing_packages)"
    say "apt-get install $packages"
    # shellcheck disable=SC2086 # one word per package
    apt "$prefix" install -qq -y --no-install-recommends $packages >/dev/null
    if [[ -n "$(missing_reasons)" ]]; then
        say "still missing after the installation:"
        missing_reasons
        exit 1
    fi
    say "done"
}

check_rust
if [[ -n "$(missing_reasons)" ]]; then
    install_missing
fi
