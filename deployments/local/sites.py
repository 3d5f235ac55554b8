"""The hospitals of a one-machine federation: sites, data, tokens and pins.

Elsewhere each hospital has its own; this machine owns them all.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from pathlib import Path

from agents.site.settings import SiteSettings
from agents.site.settings import load_settings as load_site
from agents.site.vault import Vault
from api.settings import CoordinatorSettings
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
    """The site folders of the named hospitals: deployments/sites, or another folder of
    the same names.
    """
    named = Path(__file__).parents[1] / "sites"
    return Path(os.environ.get("CONSILIUM_SITES", named))


def prepare(
    settings: CoordinatorSettings,
    *,
    n_hospitals: int = 3,
) -> list[SiteSettings]:
    """Makes everything that a local federation needs and is not there yet.

    Safe to run again. Leaves `tokens.json` (mode 0600) with the operator's token and
    one for each hospital's user.
    """
    folders = [sites_folder() / folder_name for folder_name in NAMED]
    if n_hospitals > len(NAMED):
        folders = _folders_of_many(settings, n_hospitals)
    folders = folders[: max(n_hospitals, 1)]
    for folder in folders:
        state_folder = settings.home / "sites" / folder.name
        # Of an earlier version, which gave Prefect's string to every agent.
        (state_folder / "prefect_auth").unlink(missing_ok=True)
    sites = [load_site(folder) for folder in folders]
    _make_data(sites)
    join(settings, sites)
    return sites


def join(settings: CoordinatorSettings, sites: list[SiteSettings]) -> None:
    """Registers hospitals at the coordinator, gives their agents their secrets, and pins
    them to each other. Safe to run again.
    """
    make_prefect_auth(settings)
    store = open_store(settings)
    try:
        _make_tokens(settings, store, sites)
    finally:
        store.close()
    _pin(sites)


def _folders_of_many(settings: CoordinatorSettings, n_hospitals: int) -> list[Path]:
    """Site folders of more hospitals than the three of the request document.

    Their policies name all of them. The three are copies with the same names, so that
    their state is the same; the further ones hold the host table too.
    """
    end = FIRST_USER + n_hospitals
    everybody = list(range(FIRST_USER, end))
    copies = settings.home / "site-folders"
    folders = []
    for user_id, folder_name in itertools.zip_longest(everybody, NAMED):
        if folder_name is not None:
            model = sites_folder() / folder_name
            folder = copies / folder_name
        else:
            model = sites_folder() / NAMED[0]
            folder = copies / f"hospital-{user_id}"
        own_settings = (model / "settings.toml").read_text()
        if folder_name is None:
            own_settings = _with_line(own_settings, "user_id", str(user_id))
            own_settings = _with_line(own_settings, "name", f'"{folder.name}"')
        write_secret(folder / "settings.toml", own_settings)
        documents_policy = (model / "policy.toml").read_text()
        policy = documents_policy.replace(
            str(DOCUMENTS_USERS),
            str(everybody),
        )
        # Each time: with another number of hospitals it has to name others.
        write_secret(folder / "policy.toml", policy)
        folders.append(folder)
    return folders


def _with_line(text: str, key: str, value: str) -> str:
    """A TOML text whose line of this key is replaced."""
    line_pattern = rf"(?m)^{key} = .*$"
    return re.sub(line_pattern, f"{key} = {value}", text)


def _make_tokens(
    settings: CoordinatorSettings,
    store: Store,
    sites: list[SiteSettings],
) -> None:
    """Tokens for who has none that the store takes.

    They are in the file before the store knows them: whoever the store knows is in the
    file, wherever an earlier start has died.
    """
    tokens = read_tokens(settings)
    registered = store.hospitals.names()
    users = [str(site.user_id) for site in sites]
    lost = []
    for user in users:
        if int(user) in registered and user not in tokens:
            lost.append(user)
    # A file that lacks somebody whom the store knows is damaged; no file at all is not.
    if tokens and lost:
        raise damaged_tokens(tokens_path(settings))
    new_tokens: dict[str, str] = {}
    for user in (OPERATOR, *users):
        token = tokens.get(user, "")
        if store.hospitals.caller(token) is None:
            new_tokens[user] = secrets.token_urlsafe(TOKEN_BYTES)
    if new_tokens:
        all_tokens = {**tokens, **new_tokens}
        write_tokens(settings, all_tokens)
    for site in sites:
        if site.user_id not in registered:
            store.hospitals.add(site.user_id, site.name)
    for user, token in new_tokens.items():
        if user == OPERATOR:
            store.hospitals.add_token(token, "operator", None)
        else:
            store.hospitals.add_token(token, "hospital", int(user))
    for site in sites:
        _give_agent(settings, store, site)


def _give_agent(
    settings: CoordinatorSettings,
    store: Store,
    site: SiteSettings,
) -> None:
    """The secret that a hospital's IT gets from the operator."""
    token_path = site.state / "token"
    token = read_secret(token_path, "Remove it: a new one is made at the next start.")
    if token is None or store.hospitals.caller(token) is None:
        # Who dies between the two gets another at the next start; nobody has this one.
        agent_token = new_token(store, "agent", site.user_id)
        write_secret(token_path, agent_token)


def _make_data(sites: list[SiteSettings]) -> None:
    missing = []
    for site in sites:
        database = site.state / "hospital.duckdb"
        if not database.exists():
            missing.append(site)
    # Loaded only where a database is missing: it imports scikit-learn.
    tables = breast_cancer_tables() if missing else {}
    for site in missing:
        # In the request document hospital 4 has the guest's table.
        role = "guest" if site.user_id == 4 else "host"
        own_tables = {
            f"breast_homo_{role}": tables[role],
            "breast_homo_test": tables["test"],
        }
        make_database(site.state / "hospital.duckdb", own_tables)
    for site in sites:
        make_data_files(site.data_folder, site.user_id)


def _pin(sites: list[SiteSettings]) -> None:
    """What people compare by telephone, written by who owns all sites."""
    partner_entries = {}
    for site in sites:
        identity = Vault(site.vault).identity()
        fingerprint = identity.public.fingerprint
        partner_entries[site.user_id] = (
            f"[[partners]]\n"
            f"user_id = {site.user_id}\n"
            f'name = "{site.name}"\n'
            f'fingerprint = "{fingerprint}"\n'
        )
    for site in sites:
        partners = []
        for user_id, partner_entry in partner_entries.items():
            if user_id != site.user_id:
                partners.append(partner_entry)
        partners_text = "\n".join(partners)
        write_secret(site.state / "partners.toml", partners_text)
