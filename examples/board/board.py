#!/usr/bin/env python3
"""A departure board: the program of src/main.rs in Python, with DataStax's driver.

    pip install cassandra-driver
    python3 board.py 127.0.0.1:9042 JFK 2013-07-04

One prepared statement, asked for page by page; the driver sends it to a node that has the rows.
"""

import datetime
import sys

from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster

SELECT = (
    "SELECT time_hour, carrier, flight, dest, dep_delay FROM air.flights "
    "WHERE origin = ? AND year = ? AND month = ? AND day = ?"
)


def delay(minutes):
    if minutes is None:
        return "cancelled"
    return f"{minutes} min late" if minutes > 0 else "on time"


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: board.py HOST:PORT[,HOST:PORT...] AIRPORT YYYY-MM-DD")
    nodes = [node.rsplit(":", 1) for node in sys.argv[1].split(",")]
    day = datetime.date.fromisoformat(sys.argv[3])
    cluster = Cluster([host for host, _ in nodes], port=int(nodes[0][1]))
    session = cluster.connect()
    select = session.prepare(SELECT)
    select.consistency_level = ConsistencyLevel.QUORUM
    flights = 0
    for row in session.execute(select, (sys.argv[2], day.year, day.month, day.day)):
        number = f"{row.carrier}{row.flight:<5}"
        print(f"{row.time_hour:%H:%M} UTC  {number} {row.dest}  {delay(row.dep_delay)}")
        flights += 1
    print(f"{flights} flights")
    cluster.shutdown()


if __name__ == "__main__":
    main()
