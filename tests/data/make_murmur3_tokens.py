#!/usr/bin/env python3
"""Regenerates murmur3_tokens.tsv with a real Cassandra driver.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install cassandra-driver
    /tmp/venv/bin/python tests/data/make_murmur3_tokens.py > tests/data/murmur3_tokens.tsv

The driver has two implementations, one in C and one in Python; both must agree on every key.
"""

import random

import cassandra
from cassandra.metadata import Murmur3Token
from cassandra.murmur3 import murmur3 as in_python

try:
    from cassandra.cmurmur3 import murmur3 as in_c
except ImportError:  # the driver was installed without its C extension
    in_c = in_python

rng = random.Random(20240601)


def keys():
    for n in range(1, 41):  # every tail length, with each kind of byte
        yield bytes(range(n))
        yield b"\x80" * n
        yield b"\xff" * n
        yield bytes(rng.randrange(0x80, 0x100) for _ in range(n))
        yield b"a" * (n - 1) + b"\x80"
        for _ in range(4):
            yield rng.randbytes(n)
    for word in ["key", "user:1", "zürich", "Ω", "🪨", "flights/EWR/2013-01-01/1545"]:
        yield word.encode()
    for i in range(20):
        yield b"user%d" % i
    for n in [63, 64, 65, 127, 255, 256, 257, 511, 1000, 1023, 1024, 1031]:
        yield rng.randbytes(n)


print(f"# Partition key (hex) and token, by cassandra-driver {cassandra.__version__};")
print("# regenerate with make_murmur3_tokens.py")
for key in dict.fromkeys(keys()):
    token = Murmur3Token.from_key(key).value
    assert {in_python(key), in_c(key)} <= {token, -(2**63)}, key
    print(f"{key.hex()}\t{token}")
