"""What a setup or its tests fail for that a rule can mend: a package of the index that is missing, a Debian package. Pure.

The rules know names that are widely known; a module that nobody declared and no rule knows is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runoff.sandbox.environments.of_native import PACKAGES
from runoff.sandbox.environments.python_requirements import PLUGINS, package_of

_FIXTURES = {
    "mocker": "pytest-mock",
    "benchmark": "pytest-benchmark",
    "httpserver": "pytest-httpserver",
    "httpbin": "pytest-httpbin",
    "snapshot": "syrupy",
    "event_loop": "pytest-asyncio",
    "requests_mock": "requests-mock",
    "fs": "pyfakefs",
    "freezer": "pytest-freezer",
    "subtests": "pytest-subtests",
    "cov": "pytest-cov",
    "xprocess": "pytest-xprocess",
    "responses": "responses",
    "aiohttp_client": "pytest-aiohttp",
    "datadir": "pytest-datadir",
    "data_regression": "pytest-regressions",
    "file_regression": "pytest-regressions",
    "lazy_datadir": "pytest-datadir",
    "faker": "faker",
    "django_db_setup": "pytest-django",
    "settings": "pytest-django",
}
_HEADERS = {
    "ffi.h": "libffi-dev",
    "openssl/": "libssl-dev",
    "zlib.h": "zlib1g-dev",
    "bzlib.h": "libbz2-dev",
    "lzma.h": "liblzma-dev",
    "libpq-fe.h": "libpq-dev",
    "mysql.h": "libmariadb-dev",
    "libxml/": "libxml2-dev",
    "libxslt/": "libxslt1-dev",
    "curl/": "libcurl4-openssl-dev",
    "ncurses.h": "libncurses-dev",
    "curses.h": "libncurses-dev",
    "readline/": "libreadline-dev",
    "sqlite3.h": "libsqlite3-dev",
    "yaml.h": "libyaml-dev",
    "expat.h": "libexpat1-dev",
    "gmp.h": "libgmp-dev",
    "png.h": "libpng-dev",
    "jpeglib.h": "libjpeg-dev",
    "Python.h": "python3-dev",
    "krb5.h": "libkrb5-dev",
    "gssapi": "libkrb5-dev",
    "lber.h": "libldap-dev",
    "snappy": "libsnappy-dev",
    "zstd.h": "libzstd-dev",
    "lz4.h": "liblz4-dev",
    "uuid/": "uuid-dev",
    "check.h": "check",
    "cmocka.h": "libcmocka-dev",
    "gtest/": "libgtest-dev",
    "glib.h": "libglib2.0-dev",
    "event.h": "libevent-dev",
    "pcre.h": "libpcre3-dev",
    "pcre2.h": "libpcre2-dev",
    "sys/capability.h": "libcap-dev",
    "sys/acl.h": "libacl1-dev",
    "selinux/": "libselinux1-dev",
    "X11/": "libx11-dev",
}
_COMMANDS = PACKAGES | {
    "aclocal": "automake",
    "automake": "automake",
    "autoconf": "autoconf",
    "libtoolize": "libtool",
    "gettext": "gettext",
    "msgfmt": "gettext",
    "autopoint": "autopoint",
    "bison": "bison",
    "yacc": "bison",
    "flex": "flex",
    "makeinfo": "texinfo",
    "help2man": "help2man",
    "gperf": "gperf",
    "pg_config": "libpq-dev",
    "mysql_config": "libmariadb-dev",
    "xml2-config": "libxml2-dev",
    "curl-config": "libcurl4-openssl-dev",
    "swig": "swig",
    "rustc": "rustc",
    "bc": "bc",
    "python": "python-is-python3",
    "tclsh": "tcl",
    "expect": "expect",
    "dejagnu": "dejagnu",
    "runtest": "dejagnu",
    "valgrind": "valgrind",
    "xsltproc": "xsltproc",
    "doxygen": "doxygen",
}


def missing_packages(said: str) -> tuple[str, ...]:
    """Packages of Python that what was printed asks for, the most telling first; no more than 12."""
    found = list[str]()
    for module in re.findall(r"No module named '?([\w.]+)'?", said):
        if module.partition(".")[0] == "pkg_resources":
            found.append("setuptools<81")
        elif module.partition(".")[0] in ("distutils", "setuptools"):
            found.append("setuptools")
        elif name := package_of(module):
            found.append(name)
    for words in re.findall(r"unrecognized arguments: ([^\n]+)", said):
        found += [PLUGINS[option] for word in words.split() if (option := _option(word)) in PLUGINS]
    for option in re.findall(r"Unknown config option: (\w+)", said):
        found += [PLUGINS[option]] if option in PLUGINS else []
    found += [_FIXTURES[name] for name in re.findall(r"fixture '(\w+)' not found", said) if name in _FIXTURES]
    found += re.findall(r"Missing required plugins: ([\w-]+)", said)
    if "async def functions are not natively supported" in said or "Unknown pytest.mark.asyncio" in said:
        found.append("pytest-asyncio")
    if "Unknown pytest.mark.trio" in said:
        found.append("pytest-trio")
    if "Unknown pytest.mark.anyio" in said:
        found.append("anyio")
    if re.search(r"Missing dependencies for SOCKS|h2 package is not installed", said):
        found.append("httpx[http2,socks]")
    return tuple(dict.fromkeys(name for name in found if name))[:12]


def older_pytest(said: str) -> bool:
    """Whether the tests were written for a pytest before 8: what they use was removed."""
    return bool(
        re.search(
            r"yield tests were removed|was removed in pytest|Calling fixtures? .{0,40}directly|"
            r"_pytest.{0,40}(?:ImportError|cannot import name)|"
            r"cannot import name '\w+' from '_?pytest|"
            r"AttributeError: module 'py' has no attribute|PytestRemovedIn\w+|"
            r"unexpected keyword argument '(?:fspath|path)'|py\.path\.local' object|fixtures? is being applied more than once|"
            r"Marks applied to fixtures have no effect|Support for nose tests",
            said,
        )
    )


def missing_of_debian(said: str) -> tuple[str, ...]:
    """Debian packages that what was printed asks for: headers, programs, pkg-config's names."""
    found = list[str]()
    for header in re.findall(r"fatal error: ([\w./+-]+): No such file", said):
        found += [
            package for sign, package in _HEADERS.items() if header.startswith(sign) or header.endswith(f"/{sign}")
        ][:1]
    names = re.findall(r"(?:^|[\s:])([\w.+-]+): (?:\d+: )?(?:command )?not found", said, re.MULTILINE)
    names += re.findall(
        r"(?:exec|program|command|executable)[: ]+[`'\"]?([\w.+-]+)['\"]?:? (?:not found|is required|is needed)", said
    )
    for name in names:
        found += [_COMMANDS[name]] if name in _COMMANDS else []
    return tuple(dict.fromkeys(found))[:12]


def remedy(packages: Iterable[str]) -> str:
    """The one command that brings Debian packages."""
    return f"apt-get install {' '.join(dict.fromkeys(word for one in packages for word in one.split()))}"


def _option(word: str) -> str:
    name = word.partition("=")[0]
    return (
        name
        if name in PLUGINS
        else next((one for one in PLUGINS if one.startswith("-") and name.startswith(one)), name)
    )
