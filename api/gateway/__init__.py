"""Prefect behind the coordinator's address: what an agent may ask of it, and nothing
else.

    routes       the table: each address with its rule and what becomes of its body
    bodies       what an agent may send, and how it is written anew for Prefect
    events       the same for what comes over the socket: task runs and workers
    ownership    what belongs to which hospital's pool, asked from Prefect once for each
    sockets      both sockets, from the upgrade to the end
    parts        what these share in the application
    relay        the one way to Prefect, with the string that only the coordinator has

An agent has its own token and nothing of Prefect's. Silence means no: an address that
is not in the table does not exist, and an id that is not its pool's does not either.

Decision 79.
"""

from __future__ import annotations
