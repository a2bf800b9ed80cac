"""The DataStax driver for Python, unmodified, against a running cluster.

    tests/clients/install
    target/drivers/python/bin/python tests/clients/python_driver.py HOST:PORT[,HOST:PORT...]

Says `ok NAME` after each test and `OK` at the end. With --drive, tests that need nodes to die ask
for it: they print `@kill N` or `@start N` (nodes from 0) and go on after a line on standard input.
"""

import datetime
import decimal
import json
import logging
import os
import sys
import time
import traceback
import urllib.request
import uuid

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.connection import DefaultEndPoint
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    HostFilterPolicy,
    RetryPolicy,
    RoundRobinPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import OverloadedErrorMessage
from cassandra.query import BatchStatement, BatchType, SimpleStatement
from cassandra.util import Date, Duration, Time

# Its reconnection attempts to killed nodes are no news.
logging.basicConfig(level=logging.CRITICAL)


class NextHost(RetryPolicy):
    """What a careful application does with requests that may be sent twice."""

    def _next(self, retry_num):
        return (self.RETRY_NEXT_HOST, None) if retry_num < 5 else (self.RETHROW, None)

    def on_read_timeout(self, *args, retry_num, **_):
        return self._next(retry_num)

    def on_write_timeout(self, *args, retry_num, **_):
        return self._next(retry_num)

    def on_unavailable(self, *args, retry_num, **_):
        return self._next(retry_num)

    def on_request_error(self, *args, retry_num, **_):
        return self._next(retry_num)


def connect(endpoints, policy=None, more=None, **options):
    points = []
    for endpoint in endpoints:
        host, port = endpoint.rsplit(":", 1)
        points.append(DefaultEndPoint(host, int(port)))
    profile = ExecutionProfile(
        consistency_level=ConsistencyLevel.QUORUM,
        load_balancing_policy=policy or TokenAwarePolicy(DCAwareRoundRobinPolicy()),
        request_timeout=20,
        **options,
    )
    return Cluster(
        points,
        port=points[0].port,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=20,
        reconnection_policy=ConstantReconnectionPolicy(0.2, None),
        **(more or {}),
    )


def ask(command):
    print("@" + command, flush=True)
    assert sys.stdin.readline().strip() == "done", command


def result_of(begin, future=None):
    """The result of the request that `begin` begins; begun again while the nodes say that they have
    too much to do and have done nothing of it."""
    until = time.time() + 60
    while True:
        try:
            return (future or begin()).result()
        except NoHostAvailable as busy:
            overloaded = (isinstance(e, OverloadedErrorMessage) for e in busy.errors.values())
            if time.time() > until or not all(overloaded):
                raise
        except OverloadedErrorMessage:
            if time.time() > until:
                raise
        future = None
        time.sleep(0.05)


def fails(session, statement, kind, *args):
    try:
        session.execute(statement, *args)
    except Exception as error:
        assert type(error).__name__ == kind, (statement, type(error).__name__, str(error))
        return str(error)
    raise AssertionError("no error: %s" % statement)


def rows(session, *args):
    return list(session.execute(*args))


def metadata(s, cluster):
    """The driver's picture of the cluster: members, tokens, tables, types."""
    hosts = cluster.metadata.all_hosts()
    assert len(hosts) == s.nodes and all(host.is_up for host in hosts), hosts
    assert len({host.host_id for host in hosts}) == s.nodes
    shop = cluster.metadata.keyspaces["shop"]
    assert {"t", "ev", "w"} <= set(shop.tables) and "addr" in shop.user_types
    assert [c.name for c in shop.tables["w"].partition_key] == ["a", "b"]
    assert [c.name for c in shop.tables["w"].clustering_key] == ["c", "d"]
    replicas = cluster.metadata.get_replicas("shop", (5).to_bytes(4, "big"))
    assert len(replicas) == min(3, s.nodes), replicas
    token = rows(s, "SELECT token(k) FROM t WHERE k = 5")
    s.execute("INSERT INTO t (k) VALUES (5)")
    token = rows(s, "SELECT token(k) FROM t WHERE k = 5")[0][0]
    own = cluster.metadata.token_map.token_class.from_key((5).to_bytes(4, "big")).value
    assert token == own, (token, own)


def get(node, path):
    with urllib.request.urlopen(node + path) as answer:
        return answer.read().decode()


def forwards(nodes):
    """Operations so far whose coordinators hold no copy of the key."""
    name = "henge_coordinator_forwards_total "
    lines = (line for node in nodes for line in get(node, "/metrics").splitlines())
    return sum(int(line[len(name) :]) for line in lines if line.startswith(name))


def routing(s, cluster):
    """The driver knows who holds a key, and asks nobody else. With HENGE_NODES."""
    nodes = [node for node in os.environ.get("HENGE_NODES", "").split(",") if node]
    if not nodes:
        return
    s.execute(
        "CREATE KEYSPACE two WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': %d}" % min(2, s.nodes)
    )
    s.execute("CREATE TABLE two.t (k int PRIMARY KEY, v text)")
    for k in range(50):
        key = k.to_bytes(4, "big")
        own = {host.host_id.hex for host in cluster.metadata.get_replicas("two", key)}
        where = json.loads(get(nodes[0], "/v1/where/two.t/%s" % "".join("%%%02X" % b for b in key)))
        assert {uuid.UUID(id).hex for id in where["replicas"]} == own, (k, where, own)
    select = s.prepare("SELECT v FROM two.t WHERE k = ?")
    select.consistency_level = ConsistencyLevel.LOCAL_ONE
    before, waiting = forwards(nodes), []
    for k in range(10_000):
        begin = lambda k=k: s.execute_async(select, (k,))
        waiting.append((begin, begin()))
        if len(waiting) >= 100:
            for request in waiting:
                result_of(*request)
            waiting = []
    assert forwards(nodes) == before, forwards(nodes) - before
    s.execute("DROP KEYSPACE two")


def counters(s, cluster):
    s.execute("CREATE TABLE hits (k text PRIMARY KEY, n counter)")
    add = s.prepare("UPDATE hits SET n = n + ? WHERE k = ?")
    for future in [s.execute_async(add, (2, "page")) for _ in range(100)]:
        future.result()
    count = lambda k: s.execute("SELECT n FROM hits WHERE k = %s", (k,)).one().n
    assert count("page") == 200, count("page")
    batch = BatchStatement(BatchType.COUNTER)
    batch.add(add, (-1, "page"))
    batch.add(add, (5, "other"))
    s.execute(batch)
    assert (count("page"), count("other")) == (199, 5)
    fails(s, "INSERT INTO hits (k, n) VALUES ('page', 1)", "InvalidRequest")


def columns(s, cluster):
    s.execute(
        "INSERT INTO t (k, v, l, m, st, a)"
        " VALUES (1, 'x', [1, 2], {'a': 1}, {'q', 'b'}, {street: 's', zip: 3})"
    )
    row = s.execute("SELECT * FROM t WHERE k = 1").one()
    assert row.v == "x" and row.l == [1, 2] and row.m == {"a": 1}, row
    assert set(row.st) == {"q", "b"} and row.a.zip == 3, row
    s.execute("UPDATE t SET l = l + [9], m['z'] = 26, st = st - {'q'} WHERE k = 1")
    s.execute("UPDATE t SET l = [0] + l WHERE k = 1")
    s.execute("UPDATE t SET l[1] = 77 WHERE k = 1")
    row = s.execute("SELECT l, m, st, a.zip, writetime(v), ttl(v) FROM t WHERE k = 1").one()
    assert row[0] == [0, 77, 2, 9] and row[1] == {"a": 1, "z": 26} and set(row[2]) == {"b"}, row
    assert row[3] == 3 and abs(row[4] / 1e6 - time.time()) < 600 and row[5] is None, row


def slices(s, cluster):
    insert = s.prepare("INSERT INTO w (a, b, c, d, v) VALUES (?, ?, ?, ?, ?)")
    assert insert.routing_key_indexes == [0, 1]
    for a in range(3):
        for i in range(20):
            s.execute(insert, (a, "b", i // 5, i % 5, "v%d" % i))
    of = lambda where: [(r.c, r.d) for r in s.execute("SELECT c, d FROM w WHERE a=1 AND b='b' " + where)]
    all_of_them = [(i // 5, i % 5) for i in range(20)]
    assert of("") == all_of_them
    assert of("AND c >= 1 AND c < 3") == all_of_them[5:15]
    assert of("AND (c, d) > (2, 3)") == all_of_them[14:]
    assert of("ORDER BY c DESC, d DESC LIMIT 3") == [(3, 4), (3, 3), (3, 2)]
    assert of("AND c IN (0, 3) AND d = 2") == [(0, 2), (3, 2)]
    paged = s.prepare("SELECT c, d FROM w WHERE a = ? AND b = ?")
    paged.fetch_size = 7
    assert [tuple(r) for r in s.execute(paged, (1, "b"))] == all_of_them
    assert len(rows(s, SimpleStatement("SELECT a, c, d FROM w", fetch_size=7))) == 60
    assert len(rows(s, "SELECT DISTINCT a, b, token(a, b) FROM w")) == 3
    assert s.execute("SELECT count(*) FROM w").one()[0] == 60
    totals = s.execute("SELECT max(d), sum(c), avg(c) FROM w WHERE a = 1 AND b = 'b'").one()
    assert totals == (4, 30, 1), totals


def deletions(s, cluster):
    count = lambda where: s.execute("SELECT count(*) FROM w " + where).one()[0]
    s.execute("DELETE FROM w WHERE a = 1 AND b = 'b' AND c = 1")
    assert count("WHERE a = 1 AND b = 'b'") == 15
    s.execute("DELETE FROM w WHERE a = 1 AND b = 'b' AND c = 2 AND d = 2")
    assert count("WHERE a = 1 AND b = 'b'") == 14
    s.execute("DELETE FROM w WHERE a = 2 AND b = 'b'")
    assert count("") == 34


def statics_and_timeuuids(s, cluster):
    for i in range(5):
        s.execute("INSERT INTO ev (day, at, n, st) VALUES ('d', now(), %s, %s)", (i, i))
    found = rows(s, "SELECT n, st FROM ev WHERE day = 'd'")
    assert [row.n for row in found] == [4, 3, 2, 1, 0] and found[0].st == 4, found
    s.execute("INSERT INTO ev (day, st) VALUES ('only', 5)")
    found = rows(s, "SELECT * FROM ev WHERE day = 'only'")
    assert len(found) == 1 and found[0].st == 5 and found[0].at is None, found


def batches(s, cluster):
    insert = s.prepare("INSERT INTO w (a, b, c, d, v) VALUES (?, ?, ?, ?, ?)")
    one = BatchStatement()
    for i in range(10):
        one.add(insert, (9, "b", i, 0, "z"))
    s.execute(one)
    assert s.execute("SELECT count(*) FROM w WHERE a = 9 AND b = 'b'").one()[0] == 10
    many = BatchStatement(BatchType.UNLOGGED)
    for a in range(20, 25):
        many.add(insert, (a, "b", 0, 0, "z"))
    s.execute(many)
    found = s.execute("SELECT count(*) FROM w WHERE a IN (20, 21, 22, 23, 24) AND b = 'b'")
    assert found.one()[0] == 5
    s.execute(
        "BEGIN BATCH INSERT INTO t (k, v) VALUES (50, 'x') UPDATE t SET v = 'y' WHERE k = 50"
        " APPLY BATCH"
    )
    assert s.execute("SELECT v FROM t WHERE k = 50").one().v == "y"


def indexes(s, cluster):
    """Each sort of index: built from what is there, kept with what comes, paged, and in the metadata."""
    s.execute("CREATE TABLE ix (p int, c int, v text, m map<text, int>, PRIMARY KEY (p, c))")
    insert = s.prepare("INSERT INTO ix (p, c, v, m) VALUES (?, ?, ?, ?)")
    for i in range(60):
        s.execute(insert, (i // 6, i, "v%d" % (i % 3), {"k%d" % (i % 4): i % 5}))
    fails(s, "SELECT c FROM ix WHERE v = 'v1'", "InvalidRequest")
    s.execute("CREATE INDEX ON ix (v)")
    s.execute("CREATE INDEX by_key ON ix (keys(m))")
    s.execute("CREATE CUSTOM INDEX by_entry ON ix (entries(m)) USING 'StorageAttachedIndex'")
    of = lambda where: sorted(row.c for row in s.execute("SELECT c FROM ix WHERE " + where))
    assert of("v = 'v1'") == list(range(1, 60, 3))
    assert of("m CONTAINS KEY 'k2'") == list(range(2, 60, 4))
    assert of("m['k2'] = 1") == [i for i in range(60) if i % 4 == 2 and i % 5 == 1]
    assert of("v = 'v1' AND m CONTAINS KEY 'k2'") == list(range(10, 60, 12))
    by_value = s.prepare("SELECT p, c FROM ix WHERE v = ?")
    by_value.fetch_size = 3
    assert len({tuple(row) for row in s.execute(by_value, ("v2",))}) == 20
    s.execute("UPDATE ix SET v = 'v1' WHERE p = 0 AND c = 0")
    s.execute("DELETE FROM ix WHERE p = 1")
    assert of("v = 'v1'") == [0] + [i for i in range(1, 60, 3) if i // 6 != 1]
    cluster.refresh_table_metadata("shop", "ix")
    known = cluster.metadata.keyspaces["shop"].tables["ix"].indexes
    assert set(known) == {"ix_v_idx", "by_key", "by_entry"}, known
    assert known["by_key"].index_options["target"] == "keys(m)", known["by_key"].index_options
    s.execute("DROP INDEX ix_v_idx")
    fails(s, "SELECT c FROM ix WHERE v = 'v1'", "InvalidRequest")


def time_to_live(s, cluster):
    s.execute("INSERT INTO t (k, v) VALUES (2, 'gone') USING TTL 2")
    assert s.execute("SELECT ttl(v) FROM t WHERE k = 2").one()[0] in (1, 2)
    until = time.time() + 30
    while s.execute("SELECT * FROM t WHERE k = 2").one() is not None:
        assert time.time() < until


def errors(s, cluster):
    fails(s, "SELEC", "SyntaxException")
    fails(s, "SELECT * FROM nope", "InvalidRequest")
    fails(s, "SELECT nope FROM t", "InvalidRequest")
    fails(s, "INSERT INTO t (v) VALUES ('a')", "InvalidRequest")
    assert "ALLOW FILTERING" in fails(s, "SELECT * FROM t WHERE v = 'x'", "InvalidRequest")
    fails(s, "CREATE TABLE t (k int PRIMARY KEY)", "AlreadyExists")
    fails(s, "INSERT INTO t (k) VALUES ('a')", "InvalidRequest")
    fails(s, "CREATE TRIGGER x ON t USING 'y'", "InvalidRequest")


def altered_tables(s, cluster):
    """A statement that was prepared before its table changed shows the new columns."""
    select = s.prepare("SELECT * FROM t WHERE k = ?")
    s.execute(select, (1,))
    s.execute("ALTER TABLE t ADD extra int")
    s.execute("UPDATE t SET extra = 7 WHERE k = 1")
    assert s.execute(select, (1,)).one().extra == 7
    s.execute("TRUNCATE t")
    assert rows(s, "SELECT * FROM t") == []


def types(s, cluster):
    values = dict(
        ascii="a",
        bigint=-(2**60),
        blob=b"\0\xff",
        boolean=True,
        date=Date("2024-02-29"),
        decimal=decimal.Decimal("-12.50"),
        double=1.5,
        duration=Duration(1, 2, 3),
        float=0.5,
        inet="::1",
        int=-5,
        smallint=-300,
        text="é",
        time=Time("01:02:03.000000004"),
        timestamp=datetime.datetime(2024, 2, 29, 1, 2, 3, 4000),
        timeuuid=uuid.uuid1(),
        tinyint=-3,
        uuid=uuid.uuid4(),
        varint=-(2**100),
    )
    declared = ", ".join("c_%s %s" % (name, name) for name in values)
    s.execute("CREATE TABLE ty (k int PRIMARY KEY, %s)" % declared)
    names = ", ".join("c_" + name for name in values)
    marks = ", ".join("?" * len(values))
    insert = s.prepare("INSERT INTO ty (k, %s) VALUES (1, %s)" % (names, marks))
    s.execute(insert, list(values.values()))
    row = s.execute("SELECT * FROM ty WHERE k = 1").one()
    for name, value in values.items():
        assert getattr(row, "c_" + name) == value, (name, getattr(row, "c_" + name), value)


def in_flight(s, cluster):
    """Hundreds of requests at a time, and all they wrote is paged through."""
    s.execute("TRUNCATE t")
    insert = s.prepare("INSERT INTO t (k, v) VALUES (?, ?)")
    count, waiting = 10_000, []
    for i in range(count):
        begin = lambda i=i: s.execute_async(insert, (i, "v%d" % i))
        waiting.append((begin, begin()))
        if len(waiting) >= 400:
            for request in waiting[:200]:
                result_of(*request)
            waiting = waiting[200:]
    for request in waiting:
        result_of(*request)
    keys = [row.k for row in s.execute(SimpleStatement("SELECT k FROM t", fetch_size=1000))]
    assert len(keys) == count and set(keys) == set(range(count)), len(keys)
    assert s.execute("SELECT count(*) FROM t").one()[0] == count


def conditional(s, cluster):
    """Of sixteen writers that all begin at once one wins, and all the others see it."""
    insert = s.prepare("INSERT INTO t (k, v) VALUES (?, ?) IF NOT EXISTS")
    for k in range(100_000, 100_005):
        begins = [lambda i=i: s.execute_async(insert, (k, "w%d" % i)) for i in range(16)]
        requests = [(begin, begin()) for begin in begins]
        answers = [result_of(*request).one() for request in requests]
        assert sum(answer.applied for answer in answers) == 1, answers
        winner = s.execute("SELECT v FROM t WHERE k = %s", (k,)).one().v
        assert all(answer.applied or answer.v == winner for answer in answers), (winner, answers)
    serial = SimpleStatement(
        "SELECT v FROM t WHERE k = 100000", consistency_level=ConsistencyLevel.SERIAL
    )
    assert s.execute(serial).one().v.startswith("w")
    # Compare and set, as often as it takes: nothing is lost or counted twice.
    s.execute("INSERT INTO w (a, b, c, d, v) VALUES (7, 'cas', 0, 0, '0')")
    swap = s.prepare("UPDATE w SET v = ? WHERE a = 7 AND b = 'cas' AND c = 0 AND d = 0 IF v = ?")
    known, done = ["0"] * 4, 0
    while done < 12:
        futures = [s.execute_async(swap, (str(int(v) + 1), v)) for v in known]
        for at, future in enumerate(futures):
            answer = future.result().one()
            done += answer.applied
            known[at] = str(int(known[at]) + 1) if answer.applied else answer.v
    found = s.execute("SELECT v FROM w WHERE a = 7 AND b = 'cas' AND c = 0 AND d = 0").one().v
    assert int(found) == done, (found, done)
    batch = BatchStatement()
    for c in range(3):
        batch.add(
            SimpleStatement(
                "INSERT INTO w (a, b, c, d, v) VALUES (8, 'all', %s, 0, 'x') IF NOT EXISTS"
            ),
            (c,),
        )
    assert s.execute(batch).one().applied
    again = rows(s, batch)
    assert len(again) == 3 and not any(row.applied for row in again), again


def prepared_everywhere(s, cluster):
    """A statement has one id on all nodes, and a client that prepared it on one may use any."""
    ids, text = set(), "SELECT v FROM shop.t WHERE k = ?"
    for host in cluster.metadata.all_hosts():
        own = "%s:%d" % (host.endpoint.address, host.endpoint.port)
        alone = connect([own], policy=HostFilterPolicy(RoundRobinPolicy(), host.__eq__))
        ids.add(bytes(alone.connect().prepare(text).query_id))
        alone.shutdown()
    assert len(ids) == 1, ids


def versions(s, cluster):
    """Both versions of the protocol, compressed or not: a long text comes back as it went."""
    text = "".join(chr(97 + i * i % 26) for i in range(300_000))
    for version in (4, 5):
        for compression in (False, "lz4"):
            other = connect(ENDPOINTS, more=dict(protocol_version=version, compression=compression))
            session = other.connect("shop")
            assert other.protocol_version == version
            insert = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)")
            session.execute(insert, (version, text))
            found = session.execute("SELECT v FROM t WHERE k = %s", (version,)).one().v
            assert found == text, (version, compression)
            other.shutdown()


def traces(s, cluster):
    """What was done for a request can be read from any node."""
    for statement in ("SELECT * FROM t WHERE k = 1", "INSERT INTO t (k, v) VALUES (1, 'traced')"):
        future = s.execute_async(statement, trace=True)
        future.result()
        trace = future.get_query_trace(max_wait=20)
        assert trace.duration is not None and trace.parameters["query"] == statement, trace
        assert len(trace.events) >= 3, trace.events
        elapsed = [event.source_elapsed for event in trace.events]
        assert elapsed == sorted(elapsed), trace.events


def warnings(s, cluster):
    future = s.execute_async("SELECT count(*) FROM t")
    future.result()
    assert "partition key" in future.warnings[0], future.warnings


def schema_events(s, cluster):
    """A client hears of tables that others make, alter and drop."""
    other = connect(ENDPOINTS)
    session = other.connect("shop")
    tables = lambda: cluster.metadata.keyspaces["shop"].tables

    def heard(what):
        until = time.time() + 30
        while not what():
            assert time.time() < until
            time.sleep(0.05)

    session.execute("CREATE TABLE news (k int PRIMARY KEY)")
    heard(lambda: "news" in tables())
    session.execute("ALTER TABLE news ADD v int")
    heard(lambda: "v" in tables()["news"].columns)
    session.execute("DROP TABLE news")
    heard(lambda: "news" not in tables())
    other.shutdown()


def dying_nodes(s, cluster):
    """Quorum goes on while each node in turn is killed, and prepared statements survive it."""
    careful = connect(ENDPOINTS, retry_policy=NextHost())
    session = careful.connect("shop")
    insert = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)")
    select = session.prepare("SELECT v FROM t WHERE k = ?")
    insert.is_idempotent = select.is_idempotent = True
    written = 0

    def some(count):
        nonlocal written
        for _ in range(count):
            begins = [
                lambda k=200_000 + written + i: session.execute_async(insert, (k, "d"))
                for i in range(10)
            ]
            for request in [(begin, begin()) for begin in begins]:
                result_of(*request)
            written += 10
            assert session.execute(select, (200_000 + written - 1,)).one().v == "d"

    def all_up():
        return all(host.is_up for host in careful.metadata.all_hosts())

    for node in range(s.nodes):
        # The driver itself takes a while to come back to a node that is up again.
        until = time.time() + 60
        while not all_up():
            assert time.time() < until
            time.sleep(0.05)
        some(10)
        ask("kill %d" % node)
        some(20)
        ask("start %d" % node)
        some(10)
    for i in range(written):
        assert session.execute(select, (200_000 + i,)).one() is not None, i
    careful.shutdown()


TESTS = [
    metadata,
    routing,
    columns,
    slices,
    deletions,
    statics_and_timeuuids,
    batches,
    indexes,
    time_to_live,
    counters,
    errors,
    altered_tables,
    types,
    prepared_everywhere,
    versions,
    traces,
    warnings,
    schema_events,
    conditional,
    in_flight,
]
DRIVEN = [dying_nodes]
ENDPOINTS = [arg for arg in sys.argv[1:] if not arg.startswith("--")][0].split(",")


def schema(session, nodes):
    session.execute("DROP KEYSPACE IF EXISTS shop")
    session.execute(
        "CREATE KEYSPACE IF NOT EXISTS shop WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': %d}" % min(3, nodes)
    )
    session.set_keyspace("shop")
    session.execute("CREATE TYPE addr (street text, zip int)")
    session.execute(
        "CREATE TABLE IF NOT EXISTS t (k int PRIMARY KEY, v text, l list<int>,"
        " m map<text, int>, st set<text>, a frozen<addr>, )"
    )
    session.execute(
        "CREATE TABLE ev (day text, at timeuuid, n int, st int static, PRIMARY KEY (day, at))"
        " WITH CLUSTERING ORDER BY (at DESC)"
    )
    session.execute(
        "CREATE TABLE w (a int, b text, c int, d int, v text, PRIMARY KEY ((a, b), c, d))"
    )


def main():
    driven = "--drive" in sys.argv
    cluster = connect(ENDPOINTS)
    session = cluster.connect()
    session.nodes = len(cluster.metadata.all_hosts())
    print("protocol version", cluster.protocol_version, flush=True)
    schema(session, session.nodes)
    failed = 0
    for test in TESTS + (DRIVEN if driven else []):
        began = time.time()
        try:
            test(session, cluster)
            print("ok %s (%.1f s)" % (test.__name__, time.time() - began), flush=True)
        except Exception:
            failed += 1
            print("FAILED %s" % test.__name__, flush=True)
            traceback.print_exc(file=sys.stdout)
    cluster.shutdown()
    if failed:
        sys.exit(1)
    print("OK", flush=True)


main()
