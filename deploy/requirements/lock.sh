#!/usr/bin/env bash
# Write the images' locks anew, cuda.txt and cpu.txt: the versions of constraints.txt, every package with its hashes.
# With --newest, write constraints.txt first: the newest versions within the ranges of pyproject.toml.
# Needs uv (pip install uv).
#
# constraints.txt is resolved for the oldest Python that the project takes, so that newer ones find every version too,
# and with torch as PyPI has it, so that triton is the one which torch's CUDA build demands. `torch==X` is met by every
# build of X. What only CUDA needs is not in it: torch of that version names it, and cuda.txt locks it.
#
# cuda.txt is the whole resolution. cpu.txt is the same without torch and what only CUDA needs: torch's CPU build
# has another index, from which the Dockerfile takes the same version.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/requirements
resolve=(uv pip compile pyproject.toml "$here/build.in" --python-platform x86_64-manylinux_2_28
  --no-header --no-annotate --quiet)

if [ "${1:-}" = --newest ]; then
  {
    echo "# Versions that the tests ran with: what make setup and make setup-test install, and the images are locked to."
    echo "# Written by make refresh-constraints. The ranges that others may use are in pyproject.toml."
    "${resolve[@]}" --python-version 3.11 --strip-extras \
      --extra train --extra judge --extra gpu --extra onnx --extra test --extra tracing |
      awk '!/^(nvidia|cuda)-/'
  } > constraints.new
  mv constraints.new constraints.txt
fi

"${resolve[@]}" --extra tracing --constraint constraints.txt \
  --python-version 3.12 --generate-hashes --output-file "$here/cuda.txt"
awk '/^[a-z]/ { keep = $0 !~ /^(torch|triton|nvidia-|cuda-)/ } keep' "$here/cuda.txt" > "$here/cpu.txt"
