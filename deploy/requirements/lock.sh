#!/usr/bin/env bash
# Write cuda.txt and cpu.txt anew: every package of the images, by version and hash. Needs uv (pip install uv).
#
# cuda.txt is the whole resolution. cpu.txt is the same without torch and what only CUDA needs: torch's CPU build
# has another index, from which the Dockerfile takes the same version.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/requirements
uv pip compile pyproject.toml "$here/build.in" --extra tracing \
  --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
  --generate-hashes --no-header --no-annotate --quiet --output-file "$here/cuda.txt"
awk '/^[a-z]/ { keep = $0 !~ /^(torch|triton|nvidia-|cuda-)/ } keep' "$here/cuda.txt" > "$here/cpu.txt"
