#!/usr/bin/env bash
# The load generator latte against nodes on this machine: reads, inserts, and half of each, at QUORUM.
#
#     cargo install latte-cli --version 0.29.0
#     benches/latte.sh target/release/henge 1     # one node
#     benches/latte.sh target/release/henge 3     # three, each a process of its own, replication factor 3
#
# CONCURRENCY="128 1" says how many requests are under way, SECONDS_EACH=10 how long each figure is measured,
# WORK="read insert read:1,update:1" of what, LATTE=latte where the program is. CPU is that of all nodes, from /proc.
set -eu
henge=$(realpath "$1") latte=$(realpath "$(command -v "${LATTE:-latte}")")
under_way=${CONCURRENCY:-128} seconds=${SECONDS_EACH:-10} work=${WORK:-read insert read:1,update:1}
workload=$(realpath "$(dirname "$0")/latte/kv.rn")
source "$(dirname "$0")/nodes.sh"
start_nodes "$2"
IFS=, read -ra nodes <<<"$cql"

run() {
    "$latte" run "$workload" -q -P rf="$count" --consistency QUORUM "$@" "${nodes[@]}" >latte.log 2>&1 ||
        { cat latte.log; exit 1; }
}

measure() {
    local name=$1 p=$2 before
    # Warm, and other rows than those that are measured.
    run -f "$name" -p "$p" -d 2s --start-cycle 100000000 -o warm.json
    before=$(ticks)
    run -f "$name" -p "$p" -d "${seconds}s" -o out.json
    python3 - "$name" "$p" $(($(ticks) - before)) <<'P'
import json, sys
name, under_way, used = sys.argv[1], sys.argv[2], int(sys.argv[3])
report = json.load(open("out.json"))
result = report["result"]
at = dict(zip((round(p, 2) for p in report["percentiles"]), result["request_latency"]["percentiles"]))
p50, p99, p999 = (at[p]["value"] for p in (50.0, 99.0, 99.9))
print(f'{name:16} {under_way:>4} under way {result["req_throughput"]["value"]:>9,.0f}/s'
      f'  servers {used * 1e4 / result["request_count"]:6.1f} us  client {result["cpu_time_s"] * 1e6 / result["request_count"]:5.1f} us'
      f'  p50 {p50:6.2f}  p99 {p99:6.2f}  p99.9 {p999:6.2f} ms'
      + (f'  ERRORS {result["error_count"]}' if result["error_count"] else "")
      + (f'  RETRIES {result["request_retry_count"]}' if result["request_retry_count"] else ""), flush=True)
P
}

"$latte" schema "$workload" -P rf="$count" "${nodes[@]}" >latte.log 2>&1 || { cat latte.log; exit 1; }
"$latte" load "$workload" -q -P rf="$count" --consistency QUORUM --concurrency 256 "${nodes[@]}" >latte.log 2>&1 ||
    { cat latte.log; exit 1; }
for p in $under_way; do
    for name in $work; do
        measure "$name" "$p"
    done
done
