"""A home with secrets planted in every file of the broker's, what its providers reach, and all that was seen of it."""

import secrets as random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
from planted import ECHOES

from nanoclaw_rpc import Credentials

NAMES = ("github_token", "llm_api_key", "host_token", "sql_shop_password", "email_password", "mcp_token", "child_token")
CONFIG = """
[github]
base_url = "http://127.0.0.1:{port}"
repos = ["acme/*"]
[llm]
base_url = "http://127.0.0.1:{port}"
[llm.models.m]
input = 1.0
output = 1.0
[http.write."127.0.0.1:{port}"]
idempotency_key = true
bearer_secret = "host_token"
[http.write."localhost:{port}"]
bearer_secret = "host_token"
[sql.databases.gone]
url = "postgresql://me@127.0.0.1:9/shop"
[sql.databases.shop]
url = "{database}"
[email]
host = "127.0.0.1"
port = {mail}
security = "plain"
username = "agents"
senders = ["agents@example.com"]
recipients = ["*"]
[mcp.servers.far]
url = "http://127.0.0.1:{port}/mcp"
bearer_secret = "mcp_token"
[mcp.servers.far.tools.say]
level = "L1"
kind = "read"
[mcp.servers.child]
command = [{child}]
secrets = {{ CHILD_TOKEN = "child_token" }}
[mcp.servers.child.tools.environment]
level = "L1"
kind = "read"
"""


class Planted:
    """A home with secrets in every file of the broker's, and all that was seen of what runs over it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: dict[str, str] = {}
        self.founder = home / "secrets" / "operators" / "founder.token"
        Credentials.open(home / "secrets")
        (home / "secrets" / "broker").mkdir()
        for name in NAMES:
            path = home / "secrets" / "broker" / name
            path.touch(mode=0o600)
            path.write_text(f'pl4nted/{name}+"{random.token_hex(12)}"==')

    @property
    def secrets(self) -> dict[str, str]:
        """All that nobody may see, by the file that holds it."""
        folder = self.home / "secrets"
        files = [*folder.rglob("*.token"), folder / "broker.key", *(folder / "broker").iterdir()]
        files += [path for path in self.home.rglob(".ipc_secret") if path.is_file()]
        return {str(path.relative_to(self.home)): path.read_text().strip() for path in files if path.exists()}

    def held(self, name: str) -> str:
        """One of the broker's own."""
        return (self.home / "secrets" / "broker" / name).read_text()

    @property
    def given_away(self) -> list[str]:
        """Those that the broker has to keep out of answers: its own."""
        return [self.held(name) for name in NAMES]

    def look_at_processes(self) -> None:
        """Environment and arguments of whatever runs now, the agents too."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                for name in ("environ", "cmdline"):
                    with suppress(OSError):
                        self.seen[f"{folder}/{name}"] = (folder / name).read_bytes().decode(errors="replace")

    def look_at_files(self, when: str) -> None:
        """All but the secrets' own."""
        for path in self.home.rglob("*"):
            own = "secrets" in path.relative_to(self.home).parts or path.name == ".ipc_secret"
            if path.is_file() and not path.is_symlink() and not own:
                with suppress(FileNotFoundError):  # the services are still at work
                    self.seen[f"{path}, {when}"] = path.read_bytes().decode(errors="replace")

    def keep(self, name: str, message: Any) -> Any:
        """An answer of a service."""
        self.seen[f"{name} {len(self.seen)}"] = message.SerializeToString().decode(errors="replace")
        return message


async def tell(planted: Planted, shop: str, says: Callable[[str], str]) -> None:
    """`told(echo)` answers it, `failed(echo)` fails with it."""
    connection = await asyncpg.connect(shop, password=planted.held("sql_shop_password"))
    try:
        await connection.execute("CREATE TABLE said (echo text, words text)")
        await connection.executemany("INSERT INTO said VALUES ($1, $2)", [(echo, says(echo)) for echo in ECHOES])
        await connection.execute(
            "CREATE FUNCTION told(which text) RETURNS text LANGUAGE sql AS 'SELECT words FROM said WHERE echo = which';"
            "CREATE FUNCTION failed(which text) RETURNS text LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION USING MESSAGE = told(which), DETAIL = told(which); END'"
        )
    finally:
        await connection.close()
