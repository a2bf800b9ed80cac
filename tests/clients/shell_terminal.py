"""The CQL shell on a terminal: what somebody sees who sits before it.

    python3 shell_terminal.py HENGE HOST:PORT

Needs nothing but Python: a pseudo-terminal is part of it.
"""

import os
import pty
import re
import select
import sys
import tempfile
import time

HENGE, HOST = sys.argv[1:3]

# A prompt as it comes when the editor begins to read, not when it draws its line again.
PROMPT = r"2004h[^\n]*cql> "
PROMPT_IN_DESK = r"2004h[^\n]*cql:desk> "
FOLDER = tempfile.mkdtemp()


class Terminal:
    def __init__(self):
        self.said = ""
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.environ.update(TERM="xterm", HENGE_CQL_HISTORY=os.path.join(FOLDER, "history"))
            os.environ.pop("NO_COLOR", None)
            os.execv(HENGE, [HENGE, "cql", HOST])

    def expect(self, pattern):
        """Reads until `pattern` has come; what has come before it is gone then."""
        until = time.time() + 30
        while True:
            found = re.search(pattern, self.said)
            if found:
                before = self.said[: found.end()]
                self.said = self.said[found.end() :]
                return before
            assert time.time() < until, "no %r in %r" % (pattern, self.said)
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError("ended before %r: %r" % (pattern, self.said))

    def type(self, keys):
        os.write(self.terminal, keys.encode())

    def line(self, text, pattern):
        self.type(text + "\r")
        return self.expect(pattern)

    def end(self):
        """The exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def session():
    shell = Terminal()
    shell.expect(r"Connected to .*\r\n")
    shell.expect(PROMPT)
    shell.line("DROP KEYSPACE IF EXISTS desk;", PROMPT)
    shell.line(
        "CREATE KEYSPACE desk WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1};",
        PROMPT,
    )
    shell.line("USE desk;", PROMPT_IN_DESK)
    # A statement of several lines ends at its semicolon.
    shell.type("CREATE TABLE drawers (\r")
    shell.type("  place int PRIMARY KEY,\r")
    shell.line("  label text);", PROMPT_IN_DESK)
    # Completion: of a keyword, a table and a column.
    shell.type("INS\t")
    shell.expect(r"INSERT")
    shell.line(" INTO drawers (place, label) VALUES (7, 'pens');", PROMPT_IN_DESK)
    shell.type("SELECT lab\t")
    shell.expect(r"label")
    shell.type(" FROM dra\t")
    shell.expect(r"drawers")
    shell.line(" WHERE pla\t= 7;", r"\(1 row\)")
    # Colours, since this is a terminal.
    shell.expect(PROMPT_IN_DESK)
    assert "\x1b[33mpens" in shell.line("SELECT label FROM drawers;", r"\(1 row\)")
    shell.expect(PROMPT_IN_DESK)
    # An error stands below the token that it is about, and the session goes on.
    seen = shell.line("SELECT labl FROM drawers;", r"\^")
    assert "did you mean label?" in seen and re.search(r"\n {7}\^$", seen), seen
    shell.expect(PROMPT_IN_DESK)
    # The arrow brings back what was typed before.
    shell.type("\x1b[A\x1b[A\r")
    shell.expect(r"pens")
    shell.expect(r"\(1 row\)")
    shell.expect(PROMPT_IN_DESK)
    # Pages wait for Enter; q ends them.
    for place in range(3):
        shell.line("INSERT INTO drawers (place) VALUES (%d);" % place, PROMPT_IN_DESK)
    shell.line("PAGING 2", r"2 rows a page")
    shell.expect(PROMPT_IN_DESK)
    shell.line("SELECT place FROM drawers;", r"---MORE---")
    shell.line("", r"\(4 rows\)")
    shell.expect(PROMPT_IN_DESK)
    shell.line("SELECT place FROM drawers;", r"---MORE---")
    shell.line("q", r"\(2 rows\)")
    shell.expect(PROMPT_IN_DESK)
    # Ctrl-C leaves what was begun, Ctrl-D the shell.
    shell.type("SELECT nothing")
    shell.type("\x03")
    shell.expect(PROMPT_IN_DESK)
    shell.type("\x04")
    assert shell.end() == 0


def history():
    shell = Terminal()
    shell.expect(PROMPT)
    shell.type("\x1b[A\x1b[A")
    shell.expect(r"SELECT place FROM drawers;")
    shell.type("\x03")
    shell.expect(PROMPT)
    shell.type("EXIT\r")
    assert shell.end() == 0


session()
history()
print("OK")
