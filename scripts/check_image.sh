#!/bin/sh
# Builds the Dockerfile for real, without a container engine, and tries what comes out: make image.
# Debian stands in for the base image: the same release and the same Python, put together here.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "image: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root: a base system is put together, and chroot is used"
command -v apt-get >/dev/null || fail "needs Debian or a system made from it"
sh scripts/system_packages.sh buildah debootstrap
command -v buildah >/dev/null && command -v debootstrap >/dev/null || fail "needs buildah and debootstrap"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")
now=
exec 3>&2
clean() {
    status=$?
    if [ "$status" != 0 ] && [ -n "$now" ]; then
        grep -v '^image: ' "$scratch/log" | tail -n 40 >&3
        reason=$(sed -n 's/^image: //p' "$scratch/log")
        echo "image: failed: ${reason:-$now}" >&3
    fi
    # What an interrupted step left mounted must not be followed by rm.
    awk -v inside="$scratch/" 'index($2, inside) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r mount; do umount --lazy "$mount"; done
    rm -rf --one-file-system "$scratch"
    [ "$status" = 0 ] || exit 1
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

# A storage of its own: nothing that is on the machine is used or left changed.
in_storage() { # COMMAND ARGUMENT...
    command=$1 && shift
    buildah --root "$scratch/storage" --runroot "$scratch/run" --storage-driver vfs "$command" "$@"
}

# Runs a step, whose output is of interest only where it fails. No || behind it: set -e holds inside.
step() { # WHAT COMMAND ARGUMENT...
    echo "image: $1" >&2
    now=$1 && shift
    "$@" >"$scratch/log" 2>&1
    now=
}

# Names and mirrors come from the Dockerfile and from the machine, so none stands here.
base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
version=$(echo "$base" | sed 's/.*:\([0-9]*\.[0-9]*\).*/\1/')
suite=${base##*-}
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --no-release-info --format '$(SITE)' \
    'Created-By: Packages' 'Component: main' "Release: $codename" | head -n 1)
[ -n "$mirror" ] || fail "apt's configuration names no mirror for $codename"

make_base() {
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$scratch/base" "$mirror"
    # Where the official image has them, and Debian has not; of pip, the name is enough.
    ln -s /usr/bin/python3 "$scratch/base/usr/local/bin/python"
    ln -s /usr/bin/python3 "$scratch/base/usr/local/bin/python3"
    ln -s /bin/false "$scratch/base/usr/local/bin/pip"
    chroot "$scratch/base" python --version | grep -F "Python $version."
    container=$(in_storage from scratch)
    in_storage add --quiet "$container" "$scratch/base" /
    in_storage config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    in_storage commit --quiet --rm "$container" "localhost/$base"
    rm -rf --one-file-system "$scratch/base"
}

# pip in the builder shall find what pip on this machine finds: its settings in one file, then the
# local folders these settings name.
write_pip_settings() { # FILE-OF-SETTINGS FILE-OF-FOLDERS
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
    "$python" -m pip config list 2>/dev/null | python3 -c '
import ast, configparser, pathlib, sys

settings, folders = configparser.RawConfigParser(), set()
for key, _, value in (line.strip().partition("=") for line in sys.stdin):
    section, _, option = key.rpartition(".")
    section, value = section.replace(":env:", "global"), ast.literal_eval(value)
    if not settings.has_section(section):
        settings.add_section(section)
    if not settings.has_option(section, option):  # variables are listed first and win
        settings.set(section, option, value)
    for word in value.split():
        path = pathlib.Path(word.removeprefix("file://"))
        # The links of a local index lead to its neighbours.
        path = path.parent if word.startswith("file:") else path
        if path.is_absolute() and path.exists() and path != pathlib.Path("/"):
            folders.add(f"{path}\n")
with open(sys.argv[1], "w") as file:
    settings.write(file)
pathlib.Path(sys.argv[2]).write_text("".join(sorted(folders)))
' "$1" "$2"
}

build() {
    write_pip_settings "$scratch/pip.conf" "$scratch/pip.folders"
    set -- --volume "$scratch/pip.conf:/etc/pip.conf:ro"
    [ ! -d /etc/ssl/certs ] || set -- "$@" --volume /etc/ssl/certs:/etc/ssl/certs:ro
    while read -r path; do
        case $path in
            /etc/ssl/certs/*) ;;
            *) set -- "$@" --volume "$path:$path:ro" ;;
        esac
    done <"$scratch/pip.folders"
    # The format that keeps HEALTHCHECK; the network that the machine itself has.
    in_storage bud --format docker --isolation chroot --network host --pull-never "$@" \
        --tag localhost/file-service:check .
}

started=$(date +%s)
step "debootstrap $suite as $base" make_base
step "build the Dockerfile" build
container=$(in_storage from --pull-never localhost/file-service:check)
mkdir -m 0755 "$scratch/check"
in_storage inspect --type image localhost/file-service:check >"$scratch/check/image.json"
cat >"$scratch/check/check.py" <<'PYTHON'
# Runs inside the image as its user, with the image's own Python and variables.
import contextlib, http.client, importlib.util, json, os, pathlib, shutil
import signal, socket, subprocess, sys, time

config = json.loads(pathlib.Path("/check/image.json").read_bytes())["Docker"]["config"]
entrypoint, healthcheck = config["Entrypoint"], config["Healthcheck"]["Test"]


def check(holds, sentence):
    if not holds:
        sys.exit(f"image: {sentence}")


def ask(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


@contextlib.contextmanager
def started(*arguments):
    command = subprocess.Popen([*entrypoint, *arguments], start_new_session=True)
    try:
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)


def wait(command):
    try:
        return command.wait(20)
    except subprocess.TimeoutExpired:
        return "nothing in 20 seconds"


def is_healthy():
    return subprocess.run(healthcheck[1:], stderr=subprocess.DEVNULL).returncode == 0


check(os.getuid() == os.getgid() == 10001, f"runs as {os.getuid()}:{os.getgid()}")
for tool in ("gcc", "cc", "make", "pip", "pip3"):
    check(shutil.which(tool) is None, f"{tool} is in it")
check(importlib.util.find_spec("pip") is None, "pip can be imported")
check(importlib.util.find_spec("hatchling") is None, "hatchling can be imported")
package = pathlib.Path(importlib.util.find_spec("file_service").origin).parent
check(not os.access(package, os.W_OK), "the service can write to its own code")
check(list(package.glob("__pycache__/*.pyc")), "the code is not compiled")
check(healthcheck[0] == "CMD", "the health check is run by a shell")
check(config["StopSignal"] in ("SIGTERM", "15"), f"is stopped by {config['StopSignal']}")
check("/data" in config["Volumes"], "/data is no volume")
with started("--help") as command:
    check((status := wait(command)) == 0, f"--help ends with {status}")

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
os.environ["FILE_SERVICE_PORT"] = str(port)
check(not is_healthy(), "the health check succeeds while nothing runs")
with started(*config["Cmd"]) as service:
    deadline = time.monotonic() + 20
    while not is_healthy():
        check(service.poll() is None, f"serve ends with {service.returncode}")
        check(time.monotonic() < deadline, "is not healthy after 20 seconds")
        time.sleep(0.1)
    sent = os.urandom(3_000_000)
    status, answer = ask("POST", "/files/?filename=check.bin", sent)
    check(status == 201, f"upload: {status} {answer[:200]}")
    status, received = ask("GET", f"/files/{answer.decode()}/")
    check(status == 200 and received == sent, f"download: {status}, {len(received)} bytes")
    check(pathlib.Path("/data/catalogue.db").exists(), "the catalogue is not in /data")
    service.send_signal(signal.SIGTERM)
    check((status := wait(service)) == 0, f"SIGTERM ends serve with {status}")
    check(not is_healthy(), "the health check succeeds after the end")
PYTHON
try_image() {
    chmod -R a+rX "$scratch/check"
    in_storage run --isolation chroot --network host --volume "$scratch/check:/check:ro" \
        "$container" -- python /check/check.py
}
step "try what was built" try_image
size=$(in_storage images --format '{{.Size}}' localhost/file-service:check)
service=$(du -sm "$(in_storage mount "$container")/opt/file-service" | cut -f 1)
echo "image: $size with Debian as the base, $service MB of it the service; $(($(date +%s) - started)) seconds"
echo "image ok"
