#!/usr/bin/env bash
# Makes .venv: the locked environment and the command `cardinal`; `tools/setup.sh gpu` that for
# NVIDIA GPUs. Does nothing when it is up to date; begins anew when it was interrupted, moved, of
# the other kind, or lost its Python.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-cpu}
lock=requirements/$kind.lock
venv=.venv
python=$venv/bin/python
stamp=$venv/cardinal-setup.done
unfinished=$venv/cardinal-setup.unfinished
uv_version=0.13.9
pytorch_index=https://download.pytorch.org/whl/cpu # only where pip's configuration has no +cpu wheel

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 with the venv module was found${PYTHON:+ (PYTHON=$PYTHON)};" \
        "install one (Debian, Ubuntu: python3 and python3-venv) or name it: make setup PYTHON=…"
}

make_venv() {
    local base
    base=$(find_python)
    say "new environment with $("$base" --version)"
    rm -rf "$venv"
    mkdir "$venv"
    touch "$unfinished"
    "$base" -m venv "$venv"
}

install_torch() {
    local torch=(--quiet --no-deps --no-compile -r requirements/torch.txt)
    "$python" -m pip install "${torch[@]}" 2>"$venv/torch.log" ||
        "$python" -m pip install "${torch[@]}" --index-url "$pytorch_index" 2>>"$venv/torch.log" ||
        { cat "$venv/torch.log" >&2; die "torch's CPU wheel was not found: is there a network?"; }
}

install() { # uv is several times faster, above all at byte-compiling; pip does the same slowly
    local uv=$venv/bin/uv
    if "$uv" --version >/dev/null 2>&1 || "$python" -m pip install -qq "uv==$uv_version"; then
        "$uv" pip install --quiet --python "$python" --compile-bytecode --no-deps "$@" && return
    fi
    say "uv failed, going on with pip (minutes)"
    "$python" -m pip install -qq --no-deps "$@"
}

exec 9<tools/setup.sh
flock 9 # a second set-up at the same time waits, then finds nothing to do
[[ -f $lock ]] || die "there is no $lock: say cpu or gpu"
want="$PWD $(cat requirements/torch.txt "$lock" pyproject.toml tools/setup.sh | sha256sum)"
[[ -f $stamp && $(<"$stamp") == "$want" && ! -e $unfinished ]] && exit

begin=$SECONDS
moved=$([[ -f $stamp && $(<"$stamp") != "$PWD "* ]] && echo yes || true)
was=$(cat "$venv/cardinal-setup.kind" 2>/dev/null || echo cpu)
if [[ -e $unfinished || -n $moved || $was != "$kind" ]] || ! "$python" -m pip --version >/dev/null 2>&1; then
    make_venv
fi
touch "$unfinished"
if [[ $kind == cpu ]]; then # its lock leaves torch out
    say "torch"
    install_torch
fi
say "packages"
install -r "$lock"
install --no-build-isolation -e .
missing=$("$python" -c 'from importlib.util import find_spec
print(*(name for name in ("torch", "vllm", "ray", "deepspeed") if not find_spec(name)))')
[[ -z $missing ]] || die "the installer left out what $lock needs: $missing"
echo "$kind" >"$venv/cardinal-setup.kind"
printf '%s' "$want" >"$stamp"
rm "$unfinished"
say "done in $((SECONDS - begin)) s"
