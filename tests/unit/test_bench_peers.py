"""What the comparison with other frameworks counts, divides and says."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import comparison
from benchmarks.peers.processes import Descendants
from benchmarks.peers.relay import Relay, free_port
from benchmarks.peers.table import (
    FLOWER_DEPLOYED,
    Measured,
    print_ratios,
    print_table,
    print_targets,
    ratios,
)
from protocol.errors import Unavailable

OWN = Measured(20.0, 22.0, 10.0, 8.0, 0.3, 1000.0, 800.0, 0.25)
PEER = Measured(30.0, 44.0, 90.0, 16.0, 1.5, 4000.0, 400.0, 0.25)


def answer_once(listener: socket.socket, answer: bytes) -> None:
    """A server that reads to the end, says one thing and hangs up."""
    connection, _ = listener.accept()
    with connection:
        while connection.recv(4096):
            pass
        connection.sendall(answer)


@pytest.mark.thorough
def test_an_order_in_one_process_ends_at_the_pooled_loss(tmp_path: Path) -> None:
    body = comparison._order("Mask", 3)
    parts = comparison._parts(body)
    measured = comparison._consilium(
        "Mask, one process", "one_process_order", tmp_path / "home", body, parts
    )
    pooled_loss = comparison._loss(comparison.pooled_weights(body), body, parts)
    assert measured.loss == pytest.approx(pooled_loss, abs=1e-12)
    assert measured.n_bytes is not None
    assert measured.n_bytes > 0


@pytest.mark.parametrize("n_hospitals", [1, 3])
def test_a_relay_passes_on_and_counts_every_byte_both_ways(n_hospitals: int) -> None:
    question, answer = b"q" * 70_001, b"a" * 90_003  # more than one read of the relay
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Relay(listener.getsockname()[1]) as relay:
            for _ in range(n_hospitals):
                server = threading.Thread(target=answer_once, args=(listener, answer))
                server.start()
                with socket.create_connection(
                    ("127.0.0.1", relay.port), 10
                ) as hospital:
                    hospital.sendall(question)
                    hospital.shutdown(socket.SHUT_WR)
                    with hospital.makefile("rb") as said:
                        assert said.read() == answer
                server.join()
        assert relay.n_bytes == n_hospitals * (len(question) + len(answer))


def test_a_relay_hangs_up_where_no_server_listens() -> None:
    with (
        Relay(free_port()) as relay,
        socket.create_connection(("127.0.0.1", relay.port), 10) as hospital,
    ):
        assert hospital.recv(1) == b""
    assert relay.n_bytes == 0


def test_ratios_are_the_peers_figures_divided_by_ours() -> None:
    assert ratios(PEER, OWN) == {
        "whole": 4.0,
        "first": 2.0,
        "order": 9.0,
        "again": 2.0,
        "round": 5.0,
        "n_bytes": 4.0,
        "peak_mib": 0.5,
    }


def test_what_one_side_does_not_count_has_no_ratio() -> None:
    uncounted = Measured(30.0, 44.0, 90.0, 16.0, 1.5, None, 400.0, 0.25)
    assert ratios(uncounted, OWN)["n_bytes"] is None
    assert ratios(PEER, uncounted)["n_bytes"] is None


def test_the_table_says_who_was_measured_and_which_target_is_missed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """FLARE, which was not measured here, is in no row of the ratios."""
    systems = {FLOWER_DEPLOYED: PEER, "Paillier, federation": OWN}
    print_table(systems, pooled_loss=0.2)
    print_ratios(systems)
    print_targets(systems, pooled_loss=0.2)
    said = capsys.readouterr().out
    assert "5.0e-02" in said  # the difference from the pooled loss
    assert "FLARE, POC" not in said
    assert "federation: whole met, order met, again MISSED, round met" in said
    assert "of the pooled one: 5.0e-02, MISSED" in said


def test_memory_is_that_of_a_whole_family_of_processes() -> None:
    """A child's own pages and its child's are in the sum, and nothing that ran before."""
    holds = "x = bytearray(40_000_000); x[::4096] = b'1' * len(x[::4096])"
    child = f"{holds}; print('held', flush=True); input()"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    )
    before = subprocess.Popen(
        [sys.executable, "-c", child.replace("40_000_000", "200_000_000")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert before.stdout is not None
    assert before.stdout.readline() == b"held\n"
    with Descendants() as descendants:
        process = subprocess.Popen(
            [sys.executable, "-c", parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        descendants.weigh()
        process.communicate(b"\n")
    assert 38 <= descendants.peak_mib <= 150
    assert before.poll() is None  # it is not ended with the block either
    before.communicate(b"\n")
    assert before.returncode == 0


def test_a_process_whose_parent_ended_at_once_is_ended_too() -> None:
    """As start scripts leave servers behind, in sessions of their own."""
    orphan = "print('here', flush=True); input()"
    parent = (
        "import subprocess, sys; subprocess.Popen("
        f"[sys.executable, '-c', {orphan!r}], start_new_session=True)"
    )
    with Descendants():
        process = subprocess.Popen(
            [sys.executable, "-c", parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        assert process.wait() == 0
    assert process.stdout.read() == b""  # nobody holds its other end any more
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()


def test_a_peer_that_does_not_come_to_its_end_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> Measured:
        raise Unavailable("It did not start.", remedy="Nothing was compared.")

    def own(name: str, module: str, folder: Path, *args: Any) -> Measured:
        return OWN

    monkeypatch.setattr(comparison, "_peer", fails)
    monkeypatch.setattr(comparison, "_consilium", own)
    comparison.main(rounds=1)
    said = capsys.readouterr().out
    for peer in comparison.PEERS:
        assert f"{peer.name}: not measured. It did not start." in said
    assert "Paillier, federation" in said
