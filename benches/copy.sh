#!/usr/bin/env bash
# COPY FROM beside the raw write path (single inserts over HTTP, many at a time) and beside cqlsh's own COPY.
#
#     benches/copy.sh target/release/henge 3 flights.csv.gz [cqlsh]     # three nodes, replication factor 3, QUORUM
#     benches/copy.sh target/release/henge 1 flights.csv.gz             # one
#     ROWS=1000000 benches/copy.sh target/release/henge 1 made          # a made file: a number and 100 bytes a row
#
# ROWS=50000 of the file are copied, TABLE=air.flights (or air.by_route, air.by_carrier) takes them. cqlsh gets
# no more than CQLSH_ROWS=ROWS of them. `cpu` is the processor time of all nodes and of the client, in µs a row.
set -eu
henge=$(realpath "$1") file=$3 cqlsh=${4:+$(realpath "$(command -v "$4")")}
rows=${ROWS:-50000} table=${TABLE:-air.flights}
schema=$(realpath "$(dirname "$0")/../examples/flights/schema.cql")
[ "$file" = made ] || file=$(realpath "$file")
source "$(dirname "$0")/nodes.sh"
start_nodes "$2"

# Name, rows, command: runs it, and shows rows per second and what they took.
timed() {
    local name=$1 n=$2 before started
    shift 2
    before=$(ticks) started=$(date +%s.%N)
    TIMEFORMAT='%U %S'
    { time "$@" >timed.log 2>&1 || { cat timed.log; exit 1; }; } 2>client
    python3 - "$name" "$n" "$started" $(($(ticks) - before)) $(cat client) <<'P'
import sys, time
name, rows, took = sys.argv[1], int(sys.argv[2]), time.time() - float(sys.argv[3])
servers, client = int(sys.argv[4]) * 1e4, sum(map(float, sys.argv[5:])) * 1e6
print(f"{name:16} {rows / took:>9,.0f} rows/s  in {took:5.1f} s  cpu: servers {servers / rows:6.1f} us, client {client / rows:6.1f} us", flush=True)
P
}

run() { "$henge" cql "$cql" "$@"; }
counted() { run --json -e "SELECT count(*) FROM $table" | python3 -c 'import json, sys; print(json.load(sys.stdin)["count"])'; }

if [ "$file" = made ]; then
    table=k.t
    run -e "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': $count};
            CREATE TABLE k.t (k bigint PRIMARY KEY, v text)"
    python3 -c "
print('k,v')
for k in range($rows): print(f'{k},{k * 2654435761 % 2**64:0100d}')" >rows.csv
else
    sed "s/'replication_factor': 3/'replication_factor': $count/" "$schema" >schema.cql
    run -f schema.cql
    # (Some sed and head end before their input does.)
    case "$file" in *.gz) zcat "$file" ;; *) cat "$file" ;; esac | awk -v n="$rows" 'NR <= n + 1' >rows.csv
    rows=$(($(wc -l <rows.csv) - 1))
fi
"$henge" bench --node "$http" --workload insert --records 100 -c 400 --warmup 1 --seconds 6 --json >raw.json 2>raw.log ||
    { cat raw.log; exit 1; }
python3 -c 'import json; print("{:16} {:>9,.0f} rows/s".format("raw", json.load(open("raw.json"))["ops_per_s"]))'
timed "henge cql" "$rows" "$henge" cql "$cql" -e "COPY $table FROM 'rows.csv' WITH HEADER = true AND NULL = 'NA'"
[ "$(counted)" = "$rows" ] || { echo "$(counted) of $rows rows are there"; exit 1; }
if [ -n "$cqlsh" ]; then
    columns=$(run --csv -e "SELECT * FROM $table LIMIT 1" | head -1)
    run -e "TRUNCATE $table"
    some=${CQLSH_ROWS:-$rows}
    awk -v n="$some" 'NR <= n + 1' rows.csv >some.csv
    # It knows columns by their order only: the file's, of those that the table has.
    python3 - "$columns" <<'P'
import csv, sys
wanted = sys.argv[1].split(",")
with open("some.csv") as given, open("own.csv", "w") as own:
    out = csv.DictWriter(own, wanted, extrasaction="ignore", lineterminator="\n")
    out.writerows(csv.DictReader(given))
P
    timed "cqlsh" "$some" "$cqlsh" 127.0.0.1 19142 --no-color -e \
        "CONSISTENCY QUORUM; COPY $table ($columns) FROM 'own.csv' WITH NULL = 'NA' AND DATETIMEFORMAT = '%Y-%m-%dT%H:%M:%SZ'"
    grep -i "rows imported\|fail\|error" timed.log | tail -3
    [ "$(counted)" = "$some" ] || echo "$(counted) of $some rows are there"
fi
