#!/usr/bin/env python3
"""Regenerates replica_placements.json with a real Cassandra driver's own replica locator.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install cassandra-driver
    /tmp/venv/bin/python tests/data/make_replica_placements.py > tests/data/replica_placements.json

Each case is a ring of Q equal partitions and their owners. The driver is given the end token of
each partition, as it would read them from system.local and system.peers, and is then asked for
the replicas of each partition and of some keys. Nodes are named by their place in "nodes".
"""

import json
import random

import cassandra
from cassandra.connection import DefaultEndPoint
from cassandra.metadata import KeyspaceMetadata, Metadata, Murmur3Token
from cassandra.policies import SimpleConvictionPolicy
from cassandra.pool import Host

rng = random.Random(20240602)
PARTITIONER = "org.apache.cassandra.dht.Murmur3Partitioner"
SIMPLE = "org.apache.cassandra.locator.SimpleStrategy"
TOPOLOGY = "org.apache.cassandra.locator.NetworkTopologyStrategy"


def end_tokens(q):
    return [-(2**63) + (p + 1) * 2**64 // q - 1 for p in range(q)]


def in_turn(q, n):
    return [p % n for p in range(q)]


def at_random(q, n):
    owners = [p % n for p in range(q)]
    rng.shuffle(owners)
    return owners


def in_runs(q, n):
    """Long stretches of one owner: what Cassandra's own vnodes never look like, but legal."""
    return [p * n // q for p in range(q)]


def nodes(*datacenters):
    """Each datacentre is a list of racks' sizes."""
    return [
        (f"dc{d}", f"r{r}")
        for d, racks in enumerate(datacenters, 1)
        for r, size in enumerate(racks, 1)
        for _ in range(size)
    ]


# name, q, nodes, owners, replications (a number is SimpleStrategy)
CASES = [
    ("one node", 8, nodes([1]), in_turn, [1, 3, {"dc1": 1}, {"dc1": 3}]),
    ("one partition", 1, nodes([1]), in_turn, [1, {"dc1": 2}]),
    ("three nodes", 16, nodes([3]), in_turn, [1, 2, 3, 5, {"dc1": 3}]),
    ("three racks", 16, nodes([1, 1, 1]), at_random, [2, 3, {"dc1": 2}, {"dc1": 3}, {"dc1": 5}]),
    ("five nodes", 32, nodes([5]), at_random, [1, 2, 3, 4, 5, {"dc1": 3}, {"dc1": 5}]),
    ("five nodes, uneven racks", 32, nodes([3, 1, 1]), at_random,
     [3, {"dc1": 1}, {"dc1": 2}, {"dc1": 3}, {"dc1": 4}, {"dc1": 5}]),
    ("five nodes, two racks", 32, nodes([4, 1]), at_random, [{"dc1": 2}, {"dc1": 3}, {"dc1": 4}]),
    ("five nodes in runs", 32, nodes([2, 2, 1]), in_runs, [3, {"dc1": 3}, {"dc1": 4}]),
    ("nine nodes", 64, nodes([3, 3, 3]), in_turn, [3, {"dc1": 3}, {"dc1": 5}]),
    ("nine nodes, uneven racks", 64, nodes([5, 3, 1]), at_random,
     [5, {"dc1": 2}, {"dc1": 3}, {"dc1": 4}, {"dc1": 5}]),
    ("two datacentres", 32, nodes([1, 1, 1], [1, 1]), at_random,
     [3, {"dc1": 3, "dc2": 2}, {"dc1": 1, "dc2": 1}, {"dc1": 3}, {"dc2": 2}, {"dc1": 2, "dc2": 0}]),
    ("two datacentres in runs", 32, nodes([2, 1], [1, 1]), in_runs,
     [4, {"dc1": 2, "dc2": 1}, {"dc1": 3, "dc2": 3}]),
    ("three datacentres, uneven racks", 64, nodes([3, 1], [1, 1, 1], [2]), at_random,
     [5, {"dc1": 3, "dc2": 3, "dc3": 1}, {"dc1": 2, "dc2": 2, "dc3": 2},
      {"dc1": 5, "dc3": 5}, {"dc2": 1, "nowhere": 3}]),
]


def ask_driver(q, places, owners, replication):
    metadata = Metadata()
    hosts = []
    for i, (datacenter, rack) in enumerate(places):
        endpoint = DefaultEndPoint(f"127.0.0.{i + 1}")
        host = Host(endpoint, SimpleConvictionPolicy, datacenter=datacenter, rack=rack)
        host, _ = metadata.add_or_return_host(host)
        hosts.append(host)
    ends = end_tokens(q)
    tokens = {host: [] for host in hosts}
    for end, owner in zip(ends, owners):
        tokens[hosts[owner]].append(str(end))

    if isinstance(replication, int):
        strategy, options = SIMPLE, {"replication_factor": str(replication)}
    else:
        strategy, options = TOPOLOGY, {dc: str(n) for dc, n in replication.items()}
    metadata.keyspaces["ks"] = KeyspaceMetadata("ks", True, strategy, options)
    metadata.rebuild_token_map(PARTITIONER, tokens)

    index = {host: i for i, host in enumerate(hosts)}
    by_partition = [
        [index[host] for host in metadata.token_map.get_replicas("ks", Murmur3Token(str(end)))]
        for end in ends
    ]
    keys = {}
    for i in range(12):
        key = f"key {i}".encode()
        keys[key.decode()] = [index[host] for host in metadata.get_replicas("ks", key)]
    return {"replication": replication, "by_partition": by_partition, "by_key": keys}


cases = []
for name, q, places, arrange, replications in CASES:
    owners = arrange(q, len(places))
    answers = [ask_driver(q, places, owners, replication) for replication in replications]
    cases.append({"name": name, "q": q, "nodes": places, "owners": owners, "answers": answers})

print('{"about": "by cassandra-driver %s; see make_replica_placements.py", "cases": [' % cassandra.__version__)
print(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases))
print("]}")
