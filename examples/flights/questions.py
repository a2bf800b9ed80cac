#!/usr/bin/env python3
"""Eleven questions about the flights, asked in CQL over HTTP, and answered once more from the file.

    henge cql -f schema.cql && henge cql -f load.cql
    python3 questions.py --file flights.csv.gz [--node http://127.0.0.1:8098]

Needs nothing but Python: a statement is a POST to /v1/cql. Ends with OK, or with what differs.
"""

import argparse
import collections
import csv
import gzip
import json
import sys
import urllib.error
import urllib.request


class Henge:
    """A node's HTTP door."""

    def __init__(self, node):
        self.address = node.rstrip("/") + "/v1/cql"

    def rows(self, query, *params):
        """All rows of a SELECT, page after page."""
        state = None
        while True:
            body = {"query": query, "params": params, "paging_state": state}
            request = urllib.request.Request(
                self.address,
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    page = json.load(answer)
            except urllib.error.HTTPError as error:
                sys.exit(f"{query}\n{error.read().decode()}")
            yield from page["rows"]
            state = page["next"]
            if state is None:
                return

    def row(self, query, *params):
        """The one row of a SELECT."""
        (row,) = self.rows(query, *params)
        return row


def number(text):
    return None if text == "NA" else int(text)


def read(path):
    """The file's rows, with numbers as numbers."""
    numbers = "year month day flight dep_time dep_delay arr_delay distance".split()
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)
    with opened as file:
        for row in csv.DictReader(file):
            row.update((name, number(row[name])) for name in numbers)
            yield row


def day_of(row):
    return row["origin"], row["year"], row["month"], row["day"]


def questions(henge, flights):
    """Yields (question, answer by CQL, answer by the file)."""
    days = collections.Counter(day_of(row) for row in flights)
    busiest, _ = max(days.items(), key=lambda item: (item[1], item[0]))
    today = [row for row in flights if day_of(row) == busiest]
    today.sort(key=lambda row: (row["time_hour"], row["carrier"], row["flight"]))
    where = "origin = ? AND year = ? AND month = ? AND day = ?"

    yield (
        "How many flights are there?",
        henge.row("SELECT count(*) AS n FROM air.flights")["n"],
        len(flights),
    )

    groups = list(
        henge.rows(
            "SELECT origin, year, month, day, count(*) AS flights, count(dep_time) AS departed "
            "FROM air.flights GROUP BY origin, year, month, day"
        )
    )
    most = max(groups, key=lambda row: (row["flights"], day_of(row)))
    yield "Which airport had the most flights on one day?", day_of(most), busiest

    cancelled = collections.Counter()
    for row in groups:
        cancelled[row["month"]] += row["flights"] - row["departed"]
    never = collections.Counter(row["month"] for row in flights if row["dep_time"] is None)
    yield "How many flights of each month never left?", +cancelled, never

    columns = "time_hour, carrier, flight, dest, dep_delay"
    names = columns.split(", ")

    def shown(row):
        # The file has whole seconds.
        return [str(row[name]).replace(".000Z", "Z") for name in names]

    first = henge.rows(f"SELECT {columns} FROM air.flights WHERE {where} LIMIT 5", *busiest)
    yield (
        "What left first on that day?",
        [shown(row) for row in first],
        [shown(row) for row in today[:5]],
    )

    last = henge.rows(
        f"SELECT {columns} FROM air.flights WHERE {where} "
        "ORDER BY time_hour DESC, carrier DESC, flight DESC LIMIT 3",
        *busiest,
    )
    yield (
        "And what last?",
        [shown(row) for row in last],
        [shown(row) for row in today[:-4:-1]],
    )

    tails = collections.Counter(row["tailnum"] for row in flights if day_of(row)[1:] == busiest[1:])
    del tails["NA"]
    plane, _ = max(tails.items(), key=lambda item: (item[1], item[0]))
    legs = henge.rows(
        "SELECT time_hour, origin, dest FROM air.flights WHERE origin IN ('EWR', 'JFK', 'LGA') "
        "AND year = ? AND month = ? AND day = ? AND tailnum = ? ALLOW FILTERING",
        *busiest[1:],
        plane,
    )
    own = [
        row for row in flights if row["tailnum"] == plane and day_of(row)[1:] == busiest[1:]
    ]
    yield (
        f"Where was plane {plane} on that day?",
        sorted([row["time_hour"].replace(".000Z", "Z"), row["origin"], row["dest"]] for row in legs),
        sorted([row["time_hour"], row["origin"], row["dest"]] for row in own),
    )

    months = {}
    for row in henge.rows(
        "SELECT origin, dest, year, month, count(*) AS n FROM air.by_route "
        "GROUP BY origin, dest, year, month"
    ):
        best = (row["n"], row["origin"], row["dest"])
        months[row["month"]] = max(best, months.get(row["month"], best))
    routes = collections.Counter((row["month"], row["origin"], row["dest"]) for row in flights)
    expected = {}
    for (month, origin, dest), count in routes.items():
        best = (count, origin, dest)
        expected[month] = max(best, expected.get(month, best))
    yield "Which route was the busiest in each month?", months, expected

    (route, _) = max(
        collections.Counter((row["origin"], row["dest"]) for row in flights).items(),
        key=lambda item: (item[1], item[0]),
    )
    weekday = busiest[1:]
    late = henge.row(
        "SELECT count(*) AS n, max(arr_delay) AS worst FROM air.by_route WHERE origin = ? "
        "AND dest = ? AND (year, month, day) >= (?, ?, ?) AND (year, month, day) < (?, ?, ?)",
        *route,
        *weekday,
        *weekday[:2],
        weekday[2] + 3,
    )
    span = range(weekday[2], weekday[2] + 3)
    week = [
        row["arr_delay"]
        for row in flights
        if (row["origin"], row["dest"]) == route
        and (row["year"], row["month"]) == weekday[:2]
        and row["day"] in span
    ]
    yield (
        f"How often did {'–'.join(route)} fly in the three days from then on, and how late at worst?",
        [late["n"], late["worst"]],
        [len(week), max(delay for delay in week if delay is not None)],
    )

    delays = {
        row["carrier"]: (row["n"], row["total"])
        for row in henge.rows(
            "SELECT carrier, count(dep_delay) AS n, sum(dep_delay) AS total FROM air.by_carrier "
            "GROUP BY carrier"
        )
    }
    by_carrier = {}
    for row in flights:
        n, total = by_carrier.get(row["carrier"], (0, 0))
        left = row["dep_delay"] is not None
        by_carrier[row["carrier"]] = (n + left, total + (row["dep_delay"] or 0))
    yield "How late does each airline leave (flights, minutes in all)?", delays, by_carrier

    indexed = {
        carrier: tuple(
            henge.row(
                "SELECT count(dep_delay) AS n, sum(dep_delay) AS total FROM air.by_route "
                "WHERE carrier = ?",
                carrier,
            ).values()
        )
        for carrier in by_carrier
    }
    yield "And by an index of another table?", indexed, by_carrier

    far = henge.row(
        "SELECT count(*) AS n, sum(distance) AS miles, min(dep_delay) AS early FROM air.by_carrier "
        "WHERE carrier = ? AND year = ? AND month = ?",
        "UA",
        *busiest[1:3],
    )
    united = [
        row
        for row in flights
        if row["carrier"] == "UA" and (row["year"], row["month"]) == busiest[1:3]
    ]
    yield (
        "How many flights and miles did United fly in that month, and how early did it ever leave?",
        [far["n"], far["miles"], far["early"]],
        [
            len(united),
            sum(row["distance"] for row in united),
            min(row["dep_delay"] for row in united if row["dep_delay"] is not None),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", required=True, help="the flights, CSV; .gz is fine")
    parser.add_argument("--node", default="http://127.0.0.1:8098", help="a node's HTTP address")
    given = parser.parse_args()
    wrong = 0
    for question, cql, file in questions(Henge(given.node), list(read(given.file))):
        print(f"{question}\n    {cql}")
        if cql != file:
            wrong += 1
            print(f"    but the file says {file}")
    if wrong:
        sys.exit(f"{wrong} answers differ")
    print("OK")


if __name__ == "__main__":
    main()
