"""Servers that a project's tests need: started over loopback inside the execution that runs the tests, and dead with it.

The server's program must be on this machine below /usr or in the environment; nothing is fetched. Pure, but for `there`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from runoff.sandbox.protocol import Value

Kind = Literal["postgres", "redis", "mysql", "memcached"]
START = "/home/user/.runoff/with-services"
"""Where the script lies that starts them and then becomes the command behind it."""
_PORTS: dict[Kind, int] = {"postgres": 5432, "redis": 6379, "mysql": 3306, "memcached": 11211}
_PROGRAMS: dict[Kind, tuple[str, str]] = {
    "postgres": ("postgres", "postgresql"),
    "redis": ("redis-server", "redis-server"),
    "mysql": ("mariadbd", "mariadb-server"),
    "memcached": ("memcached", "memcached"),
}
_IMAGES: tuple[tuple[str, Kind], ...] = (
    (r"postg(?:res|is)|timescale|pgvector", "postgres"),
    (r"redis|valkey", "redis"),
    (r"mysql|mariadb|percona", "mysql"),
    (r"memcached", "memcached"),
)
_WORD = re.compile(r"[A-Za-z0-9_.@:+-]{0,100}")


class Service(Value):
    kind: Kind
    port: int
    user: str = ""
    password: str = ""
    database: str = ""

    def __str__(self) -> str:
        return f"{self.kind} on port {self.port}" + (f", database {self.database}" if self.database else "")


def service(image: str, env: dict[str, str] = {}, port: int | None = None) -> Service | None:
    """What a container image's name and settings ask for; None for a server that is not known here."""
    name = image.rpartition("/")[2].lower()
    kind = next((kind for pattern, kind in _IMAGES if re.search(pattern, name)), None)
    if kind is None:
        return None

    def said(*names: str) -> str:
        value = next((env[one] for one in names if env.get(one)), "")
        return value if _WORD.fullmatch(value) else ""

    user = said("POSTGRES_USER", "MYSQL_USER", "MARIADB_USER")
    user = user or {"postgres": "postgres", "mysql": "root"}.get(kind, "")
    return Service(
        kind=kind,
        port=port or _PORTS[kind],
        user=user,
        password=said(
            "POSTGRES_PASSWORD", "MYSQL_PASSWORD", "MARIADB_PASSWORD", "MYSQL_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD"
        ),
        database=said("POSTGRES_DB", "MYSQL_DATABASE", "MARIADB_DATABASE") or (user if kind == "postgres" else ""),
    )


def there(one: Service) -> bool:
    """Whether this machine has its program, where a sandbox sees it."""
    program = _PROGRAMS[one.kind][0]
    if one.kind == "postgres" and any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return True
    return shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin") is not None


def package(one: Service) -> str:
    """The Debian package that has it."""
    return _PROGRAMS[one.kind][1]


def script(services: Sequence[Service]) -> str:
    """A shell script that starts these servers, waits until each answers, and runs its arguments.

    What a server says is kept in /tmp/NAME.log; one that does not come up in time is said on standard error, and the
    command is run all the same: its tests that need the server then fail to connect, which nobody takes for a verdict.
    """
    parts = [_HEAD]
    for one in services:
        parts.append(_STARTS[one.kind].format(**{name: shlex.quote(str(value)) for name, value in one}))
    return "\n".join([*parts, 'exec "$@"\n'])


def with_services(command: str) -> str:
    """A test command, behind the script."""
    return command if START in command else f"sh {START} {command}"


_HEAD = r"""#!/bin/sh
PATH=$PATH:/usr/local/sbin:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
export LC_ALL=C.UTF-8
wait_for() { # NAME COMMAND...: until it succeeds, for 20 seconds
  name=$1; shift; n=0
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -gt 200 ] && { echo "runoff: $name did not start: $(tail -n 3 /tmp/$name.log 2>/dev/null | tr '\n' ' ')" >&2; return; }
    sleep 0.1
  done
}
"""
_STARTS: dict[Kind, str] = {
    "postgres": r"""
data=/tmp/postgres-data
[ -e $data/PG_VERSION ] || initdb -D $data -U {user} -A trust --no-sync >/tmp/postgres.log 2>&1
postgres -D $data -k /tmp -p {port} -c listen_addresses=127.0.0.1 -c fsync=off \
  -c dynamic_shared_memory_type=mmap >>/tmp/postgres.log 2>&1 &
wait_for postgres psql -h 127.0.0.1 -p {port} -U {user} -d postgres -c 'select 1'
createdb -h 127.0.0.1 -p {port} -U {user} {database} >>/tmp/postgres.log 2>&1
""",
    "redis": r"""
redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no --dir /tmp >/tmp/redis.log 2>&1 &
wait_for redis redis-cli -p {port} ping
""",
    "mysql": r"""
data=/tmp/mysql-data
[ -d $data/mysql ] || mariadb-install-db --no-defaults --datadir=$data --auth-root-authentication-method=normal \
  --skip-test-db >/tmp/mysql.log 2>&1
mariadbd --no-defaults --datadir=$data --socket=/tmp/mysql.sock --port={port} --bind-address=127.0.0.1 \
  --pid-file=/tmp/mysql.pid >>/tmp/mysql.log 2>&1 &
wait_for mysql mariadb-admin --no-defaults -S /tmp/mysql.sock -u root ping
user={user} password={password} database={database} sql=
[ -z "$database" ] || sql="CREATE DATABASE IF NOT EXISTS \`$database\`;"
if [ "$user" = root ]; then
  sql="$sql ALTER USER root@localhost IDENTIFIED BY '$password';"
else
  for at in % localhost; do
    sql="$sql CREATE USER IF NOT EXISTS '$user'@'$at' IDENTIFIED BY '$password'; GRANT ALL ON *.* TO '$user'@'$at';"
  done
fi
mariadb --no-defaults -S /tmp/mysql.sock -u root -e "$sql" >>/tmp/mysql.log 2>&1
""",
    "memcached": r"""
memcached -l 127.0.0.1 -p {port} >/tmp/memcached.log 2>&1 &
sleep 0.3
""",
}
"""Shell, with the fields of a Service, quoted, in braces."""
