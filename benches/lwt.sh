#!/usr/bin/env bash
# Lightweight transactions beside plain reads and writes: three nodes on this machine, 1 to 64 clients.
#
#     benches/lwt.sh target/release/henge distinct     # each client on keys of its own
#     benches/lwt.sh target/release/henge hot          # all clients on one key
#     benches/lwt.sh target/release/henge etcd         # etcd (Debian: etcd-server) in Henge's place
#
# CLIENTS="1 64" and SECONDS_EACH=5 change the columns and how long each figure is measured. Every
# line is an operation, its successes per second, and the median and 99th percentile in ms; of
# conditional writes also the share whose condition held.
set -eu
henge=$(realpath "$1") what=$2
clients=${CLIENTS:-1 2 4 8 16 32 64} seconds=${SECONDS_EACH:-3}
source "$(dirname "$0")/nodes.sh"

# name of the line, arguments of `henge bench`
measure() {
    local name=$1 n
    shift
    for n in $clients; do
        "$henge" bench --json --seconds "$seconds" --warmup 1 -c "$n" "${at[@]}" "$@" 2>bench.log >out.json ||
            { cat bench.log; exit 1; }
        python3 - "$name" "$n" <<'P'
import json, sys
out = json.load(open("out.json"))
[row] = out["latency"].values()
held = 1 - out["declined"] / max(1, out["ops"])
errors = sum(out["errors"].values())
print(f'{sys.argv[1]:34} {sys.argv[2]:>3} clients {out["ops_per_s"]:>8}/s  p50 {row["p50_us"] / 1000:7.2f}'
      f'  p99 {row["p99_us"] / 1000:7.2f}' + (f'  held {held:.1%}' if out["declined"] else "")
      + (f'  ERRORS {out["errors"]}' if errors else ""), flush=True)
P
    done
}

if [ "$what" = etcd ]; then
    cluster=e1=http://127.0.0.1:23801,e2=http://127.0.0.1:23802,e3=http://127.0.0.1:23803
    for i in 1 2 3; do
        etcd --name e$i --data-dir "$dir/e$i" --logger zap --log-level error --initial-cluster $cluster \
            --listen-client-urls http://127.0.0.1:2379$i --advertise-client-urls http://127.0.0.1:2379$i \
            --listen-peer-urls http://127.0.0.1:2380$i --initial-advertise-peer-urls http://127.0.0.1:2380$i \
            2>e$i.log &
        pids+=($!)
    done
    at=(--etcd 127.0.0.1:23791,127.0.0.1:23792,127.0.0.1:23793 --records 1000)
    sleep 5
    measure "put" --workload insert
    measure "linearizable read" --workload read
    measure "create" --workload create
    measure "compare-and-set" --workload cas
    measure "create, one key" --workload create --hot
    measure "compare-and-set, one key" --workload cas --hot
    exit
fi

start_nodes 3
at=(--node "$http" --records 1000)
if [ "$what" = distinct ]; then
    measure "plain write, quorum" --workload insert -b plain
    measure "plain read, quorum" --workload read -b plain
    measure "create, strong" --workload create -b strong --conflict strong
    measure "compare-and-set, strong" --workload cas -b strong --conflict strong
    measure "serial read, strong" --workload read -b strong --conflict strong
    measure "create, lww" --workload create -b plain
    measure "serial read, lww" --workload read -b plain --level serial
else
    measure "plain write, quorum" --workload insert -b plain --hot
    measure "plain read, quorum" --workload read -b plain --hot
    measure "write, strong" --workload insert -b strong --conflict strong --hot
    measure "create, strong" --workload create -b strong --conflict strong --hot
    measure "compare-and-set, strong" --workload cas -b strong --conflict strong --hot
    measure "serial read, strong" --workload read -b strong --conflict strong --hot
    measure "create, lww" --workload create -b plain --hot
fi
