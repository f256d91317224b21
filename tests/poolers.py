"""A real PgBouncer in transaction mode, in front of a test's PostgreSQL."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from tests.databases import plain

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

SERVER_CONNECTIONS = 3
"""Fewer than the workers ask for, so that each one meets the sessions that others have used."""


@contextmanager
def pgbouncer(server: URL) -> Iterator[str]:
    """A DATABASE_URL that leads to a database through PgBouncer."""
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(prefix="sw-pooler-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"host={server.query.get('host') or server.host} port={server.port or 5432}"
    settings = f"""
        [databases]
        * = {place} user={server.username} {f"password={server.password}" if server.password else ""}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = {SERVER_CONNECTIONS}
        logfile = {folder / "pgbouncer.log"}
    """
    (folder / "pgbouncer.ini").write_text("\n".join(line.strip() for line in settings.splitlines()))
    as_user = []
    if os.geteuid() == 0:  # PgBouncer refuses to run as root; the server's own user may open the server's socket
        user = pwd.getpwuid(Path(str(server.query["host"])).stat().st_uid if "host" in server.query else 65534)
        for path in (folder, folder / "pgbouncer.ini"):
            os.chown(path, user.pw_uid, user.pw_gid)
        as_user = [f"--user={user.pw_name}"]
    process = subprocess.Popen([PROGRAM, "--quiet", *as_user, str(folder / "pgbouncer.ini")])
    try:
        _wait_for(port)
        yield plain(URL.create("postgresql", server.username, host="127.0.0.1", port=port, database=server.database))
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "PgBouncer does not listen"
            time.sleep(0.02)
        else:
            return
