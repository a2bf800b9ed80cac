"""Logging in with Cassandra's driver and shell, unmodified, to a node that asks.

    python3 roles.py CQLSH HOST:PORT     with the password of the superuser admin in PASSWORD
"""

import logging
import os
import subprocess
import sys
import tempfile

from cassandra import Unauthorized
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable

CQLSH, NODE = sys.argv[1:3]
HOST, PORT = NODE.rsplit(":", 1)
ADMIN = os.environ["PASSWORD"]
FOLDER = tempfile.mkdtemp()

# A refused login is no news.
logging.basicConfig(level=logging.CRITICAL)


def connect(name, password):
    provider = PlainTextAuthProvider(name, password)
    return Cluster([HOST], port=int(PORT), auth_provider=provider).connect()


def is_refused(action, kind):
    try:
        action()
    except kind:
        return True
    return False


def shell(name, password, text):
    done = subprocess.run(
        [CQLSH, HOST, PORT, "--no-color", "-u", name, "-p", password, "-e", text],
        cwd=FOLDER,
        env=dict(os.environ, HOME=FOLDER, PYTHONWARNINGS="ignore"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


admin = connect("admin", ADMIN)
admin.execute(
    "CREATE KEYSPACE shop WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
)
admin.execute("CREATE TABLE shop.stock (k int PRIMARY KEY, v text)")
admin.execute("CREATE ROLE bob WITH PASSWORD = 'sesame' AND LOGIN = true")
print("ok the driver logs in as the superuser")

assert is_refused(lambda: connect("bob", "wrong"), NoHostAvailable)
assert is_refused(lambda: Cluster([HOST], port=int(PORT)).connect(), NoHostAvailable)
print("ok a wrong password and none are refused")

bob = connect("bob", "sesame")
select = bob.prepare("SELECT * FROM shop.stock WHERE k = ?")
assert is_refused(lambda: bob.execute(select, [1]), Unauthorized)
admin.execute("GRANT SELECT ON shop.stock TO bob")
assert list(bob.execute(select, [1])) == []
assert is_refused(lambda: bob.execute("INSERT INTO shop.stock (k) VALUES (1)"), Unauthorized)
admin.execute("REVOKE SELECT ON shop.stock FROM bob")
assert is_refused(lambda: bob.execute(select, [1]), Unauthorized)
print("ok rights come and go on open connections")

code, out, err = shell("admin", ADMIN, "LIST ROLES; LIST ALL PERMISSIONS OF admin; LIST USERS")
assert code == 0 and "bob" in out, (code, out, err)
code, out, err = shell("admin", ADMIN, "GRANT SELECT ON KEYSPACE shop TO bob; LIST SELECT OF bob")
assert code == 0 and "<keyspace shop>" in out, (code, out, err)
code, out, err = shell("bob", "sesame", "SELECT * FROM shop.stock; LIST ROLES")
assert code == 0 and "bob" in out and "admin" not in out, (code, out, err)
code, out, err = shell("bob", "sesame", "DROP TABLE shop.stock")
assert code != 0 and "Unauthorized" in err, (code, out, err)
code, out, err = shell("bob", "wrong", "SELECT * FROM system.local")
assert code != 0 and "incorrect" in err, (code, out, err)
print("ok cqlsh lists roles and rights, and is refused what is not allowed")

admin.execute("DROP ROLE bob")
assert is_refused(lambda: bob.execute(select, [1]), Exception)
print("ok a dropped role is gone")
print("OK")
os._exit(0)
