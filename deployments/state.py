"""What the coordinator keeps on disk: its secrets, its tokens and its store; and
whether there was a store before.

    coordinator/store.sqlite    the store, unless CONSILIUM_STORE_URL names another
    coordinator/store_made      the mark that a store has been made for this home
    coordinator/prefect_auth    Prefect's auth string
    coordinator/token           the token of the coordinator's own flows
    coordinator/page_key        the key of the page's cookies
    tokens.json                 of `./run up` and `./run demo`: the operator's token and each hospital's user's

Every file is written whole or not at all. One that is empty or damaged is refused with
what to do about it, never replaced by a default: Prefect would run without a password,
orders would be numbered anew, tokens would stop working.

Decision 57.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

from api.settings import CoordinatorSettings
from api.store import Store
from protocol.errors import Conflict
from protocol.machine.disk import make_private_folder, write_durably

TOKEN_BYTES = 32
PAGE_KEY_BYTES = 32
OPERATOR = "operator"


# Secrets


def write_secret(path: Path, text: str) -> None:
    """A file that only its owner may read.

    Whole and on disk when this returns, or as it was before.
    """
    make_private_folder(path.parent)
    write_durably(path, text.encode())


def read_secret(path: Path, remedy: str) -> str | None:
    """The one line of a file; None where there is no file.

    Conflict (code secret) for one that holds no secret.
    """
    try:
        secret = path.read_bytes().decode("ascii").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        raise _no_secret(path, remedy)
    return secret


def make_prefect_auth(settings: CoordinatorSettings) -> None:
    """Prefect's auth string, made once: a Prefect server that we start never answers
    without one.
    """
    if prefect_auth(settings) is None:
        write_secret(_prefect_auth_path(settings), f"consilium:{secrets.token_hex(24)}")


def prefect_auth(settings: CoordinatorSettings) -> str | None:
    """Prefect's own auth string, `user:password`; None where none was made or put
    there.

    Conflict (code secret) for a file without one: Prefect, which is told an empty one,
    asks for no password at all.
    """
    auth_path = _prefect_auth_path(settings)
    remedy = "Restore it from the backup, or write one line user:password, mode 0600; nobody else needs it."
    auth = read_secret(auth_path, remedy)
    if auth is not None:
        user, _, password = auth.partition(":")
        if not user or not password:
            raise _no_secret(auth_path, remedy)
    return auth


def _prefect_auth_path(settings: CoordinatorSettings) -> Path:
    return settings.folder / "prefect_auth"


def page_key(settings: CoordinatorSettings) -> bytes:
    """The key of the page's cookies, made once.

    Without its file everybody signs in again.
    """
    key_path = settings.folder / "page_key"
    remedy = (
        "Remove it: a new one is made at the next start, and everybody signs in again."
    )
    key_text = read_secret(key_path, remedy)
    if key_text is None:
        new_key = secrets.token_bytes(PAGE_KEY_BYTES)
        key_text = base64.urlsafe_b64encode(new_key).decode()
        write_secret(key_path, key_text)
    try:
        n_bytes = len(base64.urlsafe_b64decode(key_text))
    except binascii.Error:
        n_bytes = 0
    # A key cut short would sign cookies as well, only that it could be guessed.
    if n_bytes != PAGE_KEY_BYTES:
        raise _no_secret(key_path, remedy)
    return key_text.encode()


def new_token(store: Store, role: str, user_id: int | None = None) -> str:
    """Issues a token and keeps its hash."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    store.hospitals.add_token(token, role, user_id)
    return token


def coordinator_token(settings: CoordinatorSettings, store: Store) -> Path:
    """The file with the token of the coordinator's own flows.

    Made anew where the store does not know it.
    """
    token_path = settings.folder / "token"
    token = read_secret(token_path, "Remove it: a new one is made at the next start.")
    # The store keeps hashes: a token that it has lost cannot be told to it again.
    if token is None or store.hospitals.caller(token) is None:
        write_secret(token_path, new_token(store, "coordinator"))
    return token_path


def _no_secret(path: Path, remedy: str) -> Conflict:
    return Conflict(f"{path} is empty or damaged.", remedy=remedy, code="secret")


# Tokens of a federation on one machine


def tokens_path(settings: CoordinatorSettings) -> Path:
    return settings.home / "tokens.json"


def read_tokens(settings: CoordinatorSettings) -> dict[str, str]:
    """Tokens by user id, and the operator's; empty where none were made yet.

    Conflict (code tokens) for a damaged file.
    """
    path = tokens_path(settings)
    try:
        tokens = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    # Brackets in brackets, some thousands deep, are a RecursionError.
    except (ValueError, RecursionError):
        raise damaged_tokens(path) from None
    if not isinstance(tokens, dict) or OPERATOR not in tokens:
        raise damaged_tokens(path)
    for token in tokens.values():
        if not isinstance(token, str) or not token.strip():
            raise damaged_tokens(path)
    return tokens


def write_tokens(settings: CoordinatorSettings, tokens: dict[str, str]) -> None:
    write_secret(tokens_path(settings), json.dumps(tokens, indent=2))


def damaged_tokens(path: Path) -> Conflict:
    return Conflict(
        f"{path} is empty or damaged, or lacks the token of a user whom the store knows.",
        remedy="Restore it from the backup, or remove it: new tokens are then made beside the old ones.",
        code="tokens",
    )


# The store


def open_store(settings: CoordinatorSettings) -> Store:
    """The store at this version's schema.

    Conflict (code store_missing) for none or an empty one where there was one before:
    orders would be numbered anew, and hospitals refuse a number that they have had.
    `begin_store` is for who means it. A first start, and one that died before it had a
    store, goes on.
    """
    with _opening(settings) as store:
        remnant = _left_of_a_store(settings)
        if remnant is not None and store.is_empty():
            raise Conflict(
                f"There is no store in {store.place}, or an empty one, though there was one: {remnant} is there.",
                remedy="Restore it from the backup, or set CONSILIUM_STORE_URL right. If it is lost for good, run: "
                "./run server new-store",
                code="store_missing",
            )
        _make(settings, store)
    return store


def begin_store(settings: CoordinatorSettings) -> Store:
    """An empty store where an earlier one was lost.

    Conflict (code store) where there is one.
    """
    with _opening(settings) as store:
        if not store.is_empty():
            raise Conflict(
                f"The store in {store.place} is not empty; nothing was changed.",
                remedy="If you mean to begin anew, move it away first.",
                code="store",
            )
        _make(settings, store)
    return store


@contextlib.contextmanager
def _opening(settings: CoordinatorSettings) -> Iterator[Store]:
    """A store that stays open unless something is wrong with it."""
    store = Store(settings.store_url)
    try:
        yield store
    except BaseException:
        store.close()
        raise


def _make(settings: CoordinatorSettings, store: Store) -> None:
    """Makes the tables that are missing, and only then the mark.

    Who dies between them finds a store.
    """
    make_private_folder(settings.folder)
    store.migrate()
    mark = settings.folder / "store_made"
    if not mark.exists():
        write_secret(
            mark,
            "A store has been made for this home. Where there is none now, it was lost.\n",
        )


def _left_of_a_store(settings: CoordinatorSettings) -> Path | None:
    """What is there only after a store was.

    An earlier version has no mark, but made these after its store; not so prefect_auth,
    which stands before a first start has a store.
    """
    for file_name in ("store_made", "token", "page_key", "rounds"):
        path = settings.folder / file_name
        if path.exists():
            return path
    tokens = tokens_path(settings)
    if tokens.exists():
        return tokens
    return None
