#!/usr/bin/env bash
# Repeats the figures at the end of docs/simulate.md: the time and the most memory of `warbler simulate` with a crowd that is
# made up, with the same clients from an access log, and with two configurations. The configurations are those of the page.
#
#   scripts/simulate-figures.sh [WARBLER [CLIENTS]]     target/release/warbler and 1000000 by default
set -euo pipefail
cd "$(dirname "$0")/.."

warbler=$(realpath "${1:-target/release/warbler}")
clients=${2:-1000000}
page=$PWD/docs/simulate.md
command -v /usr/bin/time >/dev/null || { echo "GNU time is missing: apt-get install time" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
awk '/^```toml/ { nth++; on = 1; next } /^```/ { on = 0 } on { print > (nth == 1 ? "edge.toml" : "new.toml") }' "$page"

crowd=(--generate "$clients" --rate 200/s --lifetime 30m)
measure() {
  local name=$1
  shift
  /usr/bin/time -f "$name: %e s, %M KiB at most" "$warbler" simulate --config edge.toml "$@" >/dev/null
}

# What a line of an access log has besides, so that as many bytes are read: a client of a crowd has only its place and time.
log_fields=',"kind":"tcp","outcome":"done","connection":1234567,"listener":"im","generation":1,"cluster":"im","locality":"frankfurt","endpoint":"10.1.0.4:5222","reason":"preferred","connect_ms":1.25,"bytes_in":10240,"bytes_out":204800,"closed_by":"client","worker":1,"trace":"00000000000000000000000000000000"}'
"$warbler" simulate --config edge.toml "${crowd[@]}" --trace-out crowd.ndjson >/dev/null
sed "s/}\$/$log_fields/" crowd.ndjson >access.log
echo "$clients clients, an access log of $(($(stat -c %s access.log) / 1000000)) MB"

measure "made up" "${crowd[@]}"
measure "made up, two configurations" "${crowd[@]}" --against new.toml
measure "from the log" --clients access.log
measure "from the log, two configurations" --clients access.log --against new.toml
