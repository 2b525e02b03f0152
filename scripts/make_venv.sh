#!/bin/sh
# Makes a virtual environment; on Debian without python3-venv it installs that first, or says what to do.
set -eu
python=$1 venv=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "file-service needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." >&2
    echo "Name another one: make PYTHON=python3.12" >&2
    exit 1
}
"$python" -c 'import ensurepip' 2>/dev/null || sh "$(dirname "$0")/system_packages.sh" python3-venv
"$python" -m venv "$venv"
