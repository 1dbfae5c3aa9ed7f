#!/bin/sh
# Renew one hash-pinned requirement file: core, dev, local, lock or peers. No index address is written into it.
set -eu
cd "$(dirname "$0")"
uv() { ../.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet "$@"; }
case "$1" in
core) uv ../pyproject.toml -o core.txt ;;
dev) uv ../pyproject.toml --extra mcp --extra pydantic-ai --group ../pyproject.toml:dev -c core.txt -o dev.txt ;;
local) uv --no-deps local.in -o local.txt ;;
lock) uv lock.in -o lock.txt ;;
peers) uv peers.in -c core.txt -o peers.txt ;;
*) echo "usage: lock.sh core|dev|local|lock|peers" >&2; exit 2 ;;
esac
