"""The hospitals of a one-machine federation: sites, data, tokens and pins, because it owns them all."""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from agents.site.settings import Settings as Site
from agents.site.settings import load_settings as load_site
from agents.site.vault import Vault
from api.settings import Settings
from api.store import Store
from deployments.demo.breast_cancer import breast_cancer_tables, make_database
from deployments.demo.joint_data import make_data_files
from deployments.state import (
    OPERATOR,
    TOKEN_BYTES,
    damaged_tokens,
    make_prefect_auth,
    new_token,
    open_store,
    prefect_auth,
    read_secret,
    read_tokens,
    tokens_path,
    write_secret,
    write_tokens,
)

NAMED = ("suzhou-szslyy", "zhejiang-zdey", "shanxi-xbfy")
FIRST_USER = 2
DOCUMENTS_USERS = [2, 3, 4]


def sites_folder() -> Path:
    """The site folders of the named hospitals: deployments/sites, or another folder of the same names."""
    return Path(os.environ.get("CONSILIUM_SITES", Path(__file__).parents[1] / "sites"))


def prepare(settings: Settings, *, n_hospitals: int = 3) -> list[Site]:
    """Makes everything that a local federation needs and is not there yet; safe to run again.

    Leaves `tokens.json` (mode 0600) with the operator's token and one for each hospital's user.
    """
    make_prefect_auth(settings)
    store = open_store(settings)
    folders = [sites_folder() / name for name in NAMED]
    if n_hospitals > len(NAMED):
        folders = _folders_of_many(settings, n_hospitals)
    sites = [load_site(folder) for folder in folders[: max(n_hospitals, 1)]]
    _make_tokens(settings, store, sites)
    _make_data(sites)
    _pin(sites)
    store.close()
    return sites


def _folders_of_many(settings: Settings, n_hospitals: int) -> list[Path]:
    """Site folders of more hospitals than the three of the request document, whose policies name all of them.

    The three are copies with the same names, so that their state is the same; the further ones hold the host table too.
    """
    everybody = list(range(FIRST_USER, FIRST_USER + n_hospitals))
    folders = []
    for user_id, name in itertools.zip_longest(everybody, NAMED):
        is_named = name is not None
        model = sites_folder() / (name if is_named else NAMED[0])
        folder = settings.home / "site-folders" / (name if is_named else f"hospital-{user_id}")
        own_settings = (model / "settings.toml").read_text()
        if not is_named:
            own_settings = re.sub(r"(?m)^user_id = .*$", f"user_id = {user_id}", own_settings)
            own_settings = re.sub(r"(?m)^name = .*$", f'name = "{folder.name}"', own_settings)
        write_secret(folder / "settings.toml", own_settings)
        policy = (model / "policy.toml").read_text()
        write_secret(folder / "policy.toml", policy.replace(str(DOCUMENTS_USERS), str(everybody)))
        folders.append(folder)
    return folders


def _make_tokens(settings: Settings, store: Store, sites: list[Site]) -> None:
    """Tokens for who has none that the store takes. They are in the file before the store knows them: whoever the
    store knows is in the file, wherever an earlier start has died."""
    tokens, known = read_tokens(settings), store.hospitals.names()
    if tokens and any(site.user_id in known and str(site.user_id) not in tokens for site in sites):
        raise damaged_tokens(tokens_path(settings))
    made: dict[str, str] = {}
    for user in (OPERATOR, *(str(site.user_id) for site in sites)):
        if store.hospitals.caller(tokens.get(user, "")) is None:
            made[user] = secrets.token_urlsafe(TOKEN_BYTES)
    if made:
        write_tokens(settings, {**tokens, **made})
    for site in sites:
        if site.user_id not in known:
            store.hospitals.add(site.user_id, site.name)
    for user, token in made.items():
        role, user_id = ("operator", None) if user == OPERATOR else ("hospital", int(user))
        store.hospitals.add_token(token, role, user_id)
    for site in sites:
        _give_agent(settings, store, site)


def _give_agent(settings: Settings, store: Store, site: Site) -> None:
    """The two secrets that a hospital's IT gets from the operator."""
    path = site.state / "token"
    token = read_secret(path, "Remove it: a new one is made at the next start.")
    if token is None or store.hospitals.caller(token) is None:
        write_secret(path, new_token(store, "agent", site.user_id))
    auth = prefect_auth(settings)
    assert auth is not None  # made by `prepare`
    write_secret(site.state / "prefect_auth", auth)


def _make_data(sites: list[Site]) -> None:
    missing = [site for site in sites if not (site.state / "hospital.duckdb").exists()]
    tables = breast_cancer_tables() if missing else {}
    for site in missing:
        part = "guest" if site.user_id == 4 else "host"
        own = {f"breast_homo_{part}": tables[part], "breast_homo_test": tables["test"]}
        make_database(site.state / "hospital.duckdb", own)
    for site in sites:
        make_data_files(site.data_folder, site.user_id)


def _pin(sites: list[Site]) -> None:
    """What people compare by telephone, written by who owns all sites."""
    prints = {site.user_id: (site.name, Vault(site.vault).identity().public.fingerprint) for site in sites}
    for site in sites:
        write_secret(
            site.state / "partners.toml", _partners({k: v for k, v in prints.items() if k != site.user_id})
        )


def _partners(prints: Mapping[int, tuple[str, str]]) -> str:
    return "\n".join(
        f'[[partners]]\nuser_id = {user}\nname = "{name}"\nfingerprint = "{text}"\n'
        for user, (name, text) in prints.items()
    )
