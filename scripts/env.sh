#!/usr/bin/env bash
# The environment in which cargo works on this project. It is meant to be
# sourced by the Makefile and the other scripts; run by itself (`make env`) it
# prints export lines for a developer who wants to call cargo directly.
#
# Everything that is expensive to make lives outside the checkout, so that a
# second clean checkout, and CI after its first run, starts from it:
#   $CARGO_TARGET_DIR   what cargo builds
#   $ROCKSDB_LIB_DIR    one optimised RocksDB for the dev, test and release profiles
# Each of the three variables keeps the value that the caller has given it.

ACCORD_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
: "${ACCORD_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/accord}"
: "${CARGO_TARGET_DIR:=$ACCORD_CACHE/target}"

# The archive's directory carries everything that decides what is in it: the
# version of its source (out of Cargo.lock), the compression that is compiled
# in, and the kind of machine. An upgrade therefore builds a new one, and two
# checkouts on different versions do not take each other's.
accord_rocksdb_version() {
    awk '$0 == "name = \"librocksdb-sys\"" { found = 1; next }
         found { gsub(/"/, "", $3); print $3; exit }' "$ACCORD_ROOT/Cargo.lock"
}
ACCORD_ROCKSDB_DIR="$ACCORD_CACHE/rocksdb/$(accord_rocksdb_version)-lz4-$(uname -s)-$(uname -m)"
: "${ROCKSDB_LIB_DIR:=$ACCORD_ROCKSDB_DIR}"
ROCKSDB_STATIC=1

export ACCORD_CACHE CARGO_TARGET_DIR ROCKSDB_LIB_DIR ROCKSDB_STATIC

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
    for name in ACCORD_CACHE CARGO_TARGET_DIR ROCKSDB_LIB_DIR ROCKSDB_STATIC; do
        printf 'export %s=%q\n' "$name" "${!name}"
    done
fi
