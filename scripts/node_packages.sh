#!/bin/sh
# Installs what a folder's package-lock.json names beside it, exactly, and runs nothing of it.
# Without Node or a registry it says so and goes on: what needs the packages says so itself.
set -eu
folder=$1
if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    sh "$(dirname "$0")/system_packages.sh" nodejs npm
fi
cd "$folder"
# npm's own record of what is there, younger than the lock where that was installed.
[ node_modules/.package-lock.json -nt package-lock.json ] && exit 0
command -v npm >/dev/null 2>&1 && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 && exit 0
echo "the packages of $folder are not installed" >&2
[ "${CI:-}" != true ]
