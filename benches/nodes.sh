# Nodes for a benchmark, on this machine; sourced by the scripts beside this file.
#
# Wants `henge`, the program. Makes a directory, which is where the script is from then on; the nodes
# end with it, and the directory is removed.

config=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../config")
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/bench.XXXXXX") pids=()
trap 'stop_nodes; rm -rf "$dir"' EXIT
cd "$dir"

# COUNT nodes, 1 or 3, each a process: HTTP on 127.0.0.1:18198 and so on, CQL on port 19142.
start_nodes() {
    count=$1
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
    http=$(list "http://127.0.0.%g:18198") cql=$(list "127.0.0.%g:19142")
}

# Stops them, and removes what they have stored.
stop_nodes() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    pids=()
    rm -rf "$dir/data"
}

# FORMAT with the number of each node, and commas between them.
list() { seq -s, -f "$1" "$count"; }

# Clock ticks (10 ms) that all nodes have used.
ticks() { cat $(printf '/proc/%s/stat ' "${pids[@]}") | sed 's/.*) //' | awk '{ t += $12 + $13 } END { print t }'; }
