#!/bin/sh
# Builds the wheel, installs it into an environment of its own, and starts it once from there.
set -eu
python=$1
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

"$python" -m build --no-isolation --wheel --outdir "$scratch/dist" . >/dev/null
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install \
    --require-hashes -r requirements/build.txt
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install \
    --no-build-isolation --require-hashes -r requirements/service.txt
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install \
    --no-deps "$scratch"/dist/*.whl

# Elsewhere, so that it is the wheel that runs, with the migrations it carries.
cd "$scratch"
"$scratch/venv/bin/file-service" serve --port 0 >log &
pid=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on \(http:[^"]*\)".*/\1/p' log)
    grep -q 'worker started' log && break
    sleep 0.1
done
id=$(printf content | "$scratch/venv/bin/python" -c '
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1] + "/files/", sys.stdin.buffer.read()).read().decode())
' "$url")
answer=$("$scratch/venv/bin/python" -c '
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1]).read().decode())
' "$url/files/$id/")
[ "$answer" = content ] || { echo "the wheel does not serve what it was given" >&2; exit 1; }
kill "$pid"
wait "$pid" || { echo "the wheel's service did not stop with exit status 0" >&2; exit 1; }
pid=
echo "wheel ok: $(ls dist)"
