#!/usr/bin/env bash
# Writes requirements/cpu.lock and gpu.lock from pyproject.toml and the .in file beside each: for
# Python 3.11 to 3.13 on Linux, x86-64 and ARM. Versions already locked stay; `--upgrade` renews
# them.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements/cpu.lock
.venv/bin/uv pip compile --quiet pyproject.toml requirements/cpu.in --extra cpu --extra dev \
    --override requirements/without_torch.txt \
    --universal --python-version 3.11 --no-annotate --no-header --output-file "$lock" "$@"

# Every line carries the marker of the supported platforms; they are all we install on.
linux="\(\(platform_machine == 'aarch64' and sys_platform == 'linux'\)"
linux+=" or \(platform_machine == 'x86_64' and sys_platform == 'linux'\)\)"
sed --in-place --regexp-extended "s/ ; python_full_version < '3.14' and $linux\$//" "$lock"
sed --in-place '1i # Written by tools/lock.sh; torch itself is in torch.txt. Install with --no-deps.' "$lock"

# With GPUs vLLM brings its own torch, torchvision and torchaudio.
lock=requirements/gpu.lock
.venv/bin/uv pip compile --quiet --no-config pyproject.toml requirements/gpu.in --extra gpu --extra dev \
    --universal --python-version 3.11 --no-annotate --no-header --output-file "$lock" "$@"
sed --in-place '1i # Written by tools/lock.sh; `tools/setup.sh gpu` installs it, with --no-deps.' "$lock"
