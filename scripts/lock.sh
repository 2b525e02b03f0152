#!/bin/sh
# Renews requirements/*.txt from pyproject.toml: exact versions with hashes, no address of any index.
set -eu
uv=${1:-uv}
cd "$(dirname "$0")/.."
compile() {
    "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-header "$@"
}
compile pyproject.toml --output-file requirements/service.txt
compile --group build --constraints requirements/service.txt --output-file requirements/build.txt
compile pyproject.toml --group dev --constraints requirements/service.txt \
    --constraints requirements/build.txt --output-file requirements/dev.txt
compile pyproject.toml --group bench --constraints requirements/service.txt \
    --constraints requirements/build.txt --output-file requirements/bench.txt
