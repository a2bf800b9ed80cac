#!/usr/bin/env bash
# Reads by key over CQL, beside HTTP: nodes on this machine, values of 100 bytes in memory, QUORUM.
#
#     benches/cql.sh target/release/henge 1     # one node
#     benches/cql.sh target/release/henge 3     # three, each a process of its own
#
# CLIENTS=64, SECONDS_EACH=3 and ROUNDS=3 change how many clients ask, how long each figure is measured and
# how often. The doors are measured in turn. "shared" is how drivers do it: an application's requests
# share one connection to each node. Server time is that of all nodes, from /proc.
set -eu
henge=$(realpath "$1") count=$2
config=$(realpath "$(dirname "$0")/../config")
clients=${CLIENTS:-64} seconds=${SECONDS_EACH:-3} rounds=${ROUNDS:-3}
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/cql.XXXXXX") pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"

for i in $(seq "$count"); do
    sed 's/:7000/:17100/g; s/:8098/:18198/; s/:9042/:19142/' "$config/node$i.toml" >node$i.toml
    # Alone it founds a cluster of one.
    [ "$count" != 1 ] || sed -i '/^founders/d' node$i.toml
    "$henge" start --config node$i.toml 2>node$i.log &
    pids+=($!)
done
for i in $(seq "$count"); do
    curl -s --retry 40 --retry-delay 1 --retry-all-errors -f "http://127.0.0.$i:18198/readyz" >/dev/null ||
        { cat node$i.log; exit 1; }
done
list() { seq -s, -f "$1" "$count"; }
http=(--node "$(list "http://127.0.0.%g:18198")") cql=(--cql "$(list "127.0.0.%g:19142")")
common=(--workload read --records 20000 --warmup 1 --seconds "$seconds" -c "$clients")

# Clock ticks (10 ms) that all nodes have used.
ticks() { cat $(printf '/proc/%s/stat ' "${pids[@]}") | sed 's/.*) //' | awk '{ t += $12 + $13 } END { print t }'; }

measure() {
    local name=$1 before
    shift
    "$henge" bench --json "$@" "${common[@]}" --report out.json >/dev/null 2>bench.log &
    local bench=$!
    sleep 1.2 # past the warm-up
    before=$(ticks)
    sleep "$(awk "BEGIN { print $seconds - 0.5 }")"
    local used=$(($(ticks) - before))
    wait $bench || { cat bench.log; exit 1; }
    python3 - "$name" "$used" "$seconds" <<'P'
import json, sys
out = json.load(open("out.json"))
[row] = out["latency"].values()
name, used, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) - 0.5
errors = sum(out["errors"].values())
print(f'{name:24} {out["ops_per_s"]:>8}/s  server {used * 1e4 / (out["ops_per_s"] * seconds):6.1f} us'
      f'  client {out["client_cpu_us_per_op"]:5.1f} us'
      f'  p50 {row["p50_us"] / 1000:6.2f} ms  p99 {row["p99_us"] / 1000:6.2f} ms'
      + (f'  ERRORS {out["errors"]}' if errors else ""), flush=True)
P
}

# Loads what is not there.
for door in http cql; do
    declare -n at=$door
    "$henge" bench "${at[@]}" --workload read --records 20000 --warmup 0 --seconds 1 >/dev/null 2>bench.log
done
for _ in $(seq "$rounds"); do
    measure "HTTP" "${http[@]}"
    measure "CQL" "${cql[@]}"
    measure "CQL, shared" "${cql[@]}" --per-connection $(((clients + count - 1) / count))
done
