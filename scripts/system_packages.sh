#!/bin/sh
# Installs the named Debian packages that are missing, by apt where root and apt are at hand.
# Elsewhere it says which are missing and goes on: what needs them says so itself.
set -eu
missing=
for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        command -v "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 && apt-get install -qq -y --no-install-recommends $missing >/dev/null && exit 0
    echo "apt could not install:$missing" >&2
else
    echo "not installed, and this is no root shell with apt:$missing" >&2
fi
[ "${CI:-}" != true ]
