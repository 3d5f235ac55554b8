"""Imports without the collector of cycles, and what it is afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from protocol.machine.importing import uncollected
from tests.pairwise import quick


def test_the_collector_rests_within_and_works_again_behind() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    # What was there is left alone from now on.
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_it_works_again_where_an_import_fails() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        raise ModuleNotFoundError
    assert gc.isenabled()
    gc.unfreeze()


def test_who_collects_on_a_thread_of_its_own_is_left_so() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "library",
    quick(["deployments.prefect_server", "api.app", "flows.hospital_runs"], 1),
)
def test_nothing_is_collected_while_a_part_imports(library: str) -> None:
    program = (
        "import gc\n"
        "from protocol.machine.importing import uncollected\n"
        "began = sum(one['collections'] for one in gc.get_stats())\n"
        "with uncollected():\n"
        f"    import {library}\n"
        "print(sum(one['collections'] for one in gc.get_stats()) - began)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # One where the library asks for it itself.
    assert int(run.stdout) <= 1
