"""Real servers of databases and of S3, each started once for the session."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pymysql
import pytest
from moto.server import ThreadedMotoServer


def _binaries() -> Path | None:
    """Return the folder with PostgreSQL's programs."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a fresh server; it does not run as root, so that it gets an owner of its own."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="unseen-postgres-"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"
    port = _free_port()
    quick = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=40"
    options = f"{quick} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -p {port}"

    def run(program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [*as_user, binaries / program, "-D", data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    try:
        run("initdb", "-A", "trust", "-U", "unseen", "--no-sync", "-E", "UTF8", "--no-locale")
        run("pg_ctl", "start", "-w", "-l", log, "-o", options)
        yield f"postgresql://unseen@127.0.0.1:{port}/postgres"
        run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL, for an administrator, of a fresh server of MariaDB."""
    server, install = (
        shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin"),
        shutil.which("mariadb-install-db"),
    )
    if server is None or install is None:
        pytest.skip("MariaDB is not installed: apt-get install mariadb-server")
    folder, port = Path(tempfile.mkdtemp(prefix="unseen-mariadb-")), _free_port()
    quick = ("--innodb-flush-method=nosync", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M")
    common = ("--no-defaults", f"--datadir={folder / 'data'}", f"--user={getpass.getuser()}", *quick)
    normal = ("--auth-root-authentication-method=normal", "--skip-test-db")
    try:
        made = subprocess.run([install, *common, *normal], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        running = subprocess.Popen(
            [server, *common, f"--socket={folder / 's'}", f"--port={port}", "--bind-address=127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, running)
            yield f"mysql://root@127.0.0.1:{port}/"
        finally:
            running.kill()
            running.wait()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The name of a bucket of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        client.close()
        yield "lake"
    server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    """Return when a server takes connections."""
    until = time.monotonic() + 60
    while True:
        assert running.poll() is None, "the server ended"
        try:
            pymysql.connect(host="127.0.0.1", port=port, user="root").close()
        except pymysql.OperationalError:
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)
        else:
            return
