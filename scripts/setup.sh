#!/bin/sh
# Makes .venv with everything that `make` needs: Debian packages, uv, the pinned dependencies, fastgen itself
# (editable). Returns at once when nothing has changed since the last time.
# PYTHON=/path/to/python chooses the interpreter of a new .venv.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.fastgen-setup

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

find_python() { # the first Python >= 3.11, or nothing
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

has_headers() { # Python.h of the interpreter $1
    "$1" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null
}

# The Debian packages that building FFCV for the interpreter $1 still needs (torch.compile, too, needs g++ and
# Python.h). Each is looked for by what it brings, so other distributions and installs by hand count.
missing_packages() {
    command -v g++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
    pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
    has_headers "$1" || echo "python$(version "$1")-dev"
}

# apt-get install "$@" as root, or through sudo, which may ask for a password only where somebody can answer.
apt_install() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo=sudo
    else
        return 1
    fi
    say "installing Debian packages: $*"
    $sudo apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}

uv_install() { # fastgen with the extras $1
    .venv/bin/uv pip install --python .venv/bin/python \
        --constraint constraints.txt --build-constraint constraints.txt --editable ".[$1]"
}

# What an install depends on. The missing packages belong to it: once they are there, FFCV is installed after all.
state() { cat pyproject.toml constraints.txt scripts/setup.sh | cksum; echo "missing: $missing"; }

python=.venv/bin/python
wanted=
if ! .venv/bin/uv --version >/dev/null 2>&1 || ! "$python" -c '' 2>/dev/null; then
    rm -f $stamp
    python=$(find_python)
    [ "$python" ] || die "no Python >= 3.11 (tried ${PYTHON:-python3 and python3.14 to python3.11}): install one"
    # Debian keeps what `python -m venv` needs in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null || wanted=python$(version "$python")-venv
fi
missing=$(missing_packages "$python" | xargs)
[ "$(cat $stamp 2>/dev/null)" != "$(state)" ] || exit 0

if [ "$missing$wanted" ]; then
    # shellcheck disable=SC2086  # lists of words
    apt_install $missing $wanted || true
    missing=$(missing_packages "$python" | xargs)
fi

if [ "$python" != .venv/bin/python ]; then
    "$python" -c 'import ensurepip' 2>/dev/null || die "'$python' cannot make a .venv: install the package $wanted"
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --constraint constraints.txt uv
fi

uv_install dali,reports,slurm,pandas,dev
if [ "$missing" ]; then
    say "going on without FFCV, as this machine lacks: $missing"
elif ! uv_install ffcv; then
    say "FFCV did not build, going on without it (to try again: rm $stamp)"
fi
state >$stamp
