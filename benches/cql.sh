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
clients=${CLIENTS:-64} seconds=${SECONDS_EACH:-3} rounds=${ROUNDS:-3}
source "$(dirname "$0")/nodes.sh"
start_nodes "$count"
at_http=(--node "$http") at_cql=(--cql "$cql")
common=(--workload read --records 20000 --warmup 1 --seconds "$seconds" -c "$clients")

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
    declare -n at=at_$door
    "$henge" bench "${at[@]}" --workload read --records 20000 --warmup 0 --seconds 1 >/dev/null 2>bench.log
done
for _ in $(seq "$rounds"); do
    measure "HTTP" "${at_http[@]}"
    measure "CQL" "${at_cql[@]}"
    measure "CQL, shared" "${at_cql[@]}" --per-connection $(((clients + count - 1) / count))
done
