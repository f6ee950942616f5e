"""Notice boards: the same three facts on each, and none that waits for ever."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import torch.distributed as dist

from tests.launching import needs_horovod
from trainer.collective import board as module
from trainer.collective.board import BoardError, BoardGoneError, BoundedBoard, HttpBoard, MemoryBoard, NoBoard

pytestmark = pytest.mark.unit


@pytest.fixture
def horovods_server():
    """The server that horovodrun keeps for its workers."""
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer()
    port = server.start()
    server.init([])
    yield HttpBoard("127.0.0.1", port)
    server.stop()


@pytest.fixture
def torchs_store():
    from trainer.collective.ddp import StoreBoard

    return BoundedBoard(StoreBoard(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)))


@pytest.fixture
def memory():
    return MemoryBoard()


@pytest.mark.parametrize(
    "kind", ["memory", "torchs_store", pytest.param("horovods_server", marks=needs_horovod)]
)  # fmt: skip
def test_a_text_is_found_by_its_key_until_another_takes_its_place(kind, request):
    board = request.getfixturevalue(kind)
    assert board.get("run1.answer.0") is None
    board.put("run1.answer.0", "the first – with more than ASCII")
    board.put("run2.answer.0", "of another fleet")
    assert board.get("run1.answer.0") == "the first – with more than ASCII"
    board.put("run1.answer.0", "the second")
    assert board.get("run1.answer.0") == "the second"
    assert board.get("run1.answer.1") is None


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "CALL_S", 0.3)


def assert_fails_soon(board, is_gone=False):
    for call in (lambda: board.put("a", "b"), lambda: board.get("a")):
        begin = time.monotonic()
        with pytest.raises(BoardError) as failure:
            call()
        assert isinstance(failure.value, BoardGoneError) == is_gone
        assert time.monotonic() - begin < 10  # 0.3 s, on a busy machine


def test_a_server_that_has_ended_is_a_board_that_is_gone():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert_fails_soon(HttpBoard("127.0.0.1", port), is_gone=True)


def test_a_server_that_takes_the_call_and_never_answers_is_a_board_error_in_bounded_time(impatient):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert_fails_soon(HttpBoard("127.0.0.1", silent.getsockname()[1]))


def test_a_server_of_something_else_is_a_board_error(impatient):
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            for _ in range(2):
                connection, _ = other.accept()
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert_fails_soon(HttpBoard("127.0.0.1", other.getsockname()[1]))


def test_a_board_whose_calls_block_is_out_of_reach_until_they_end(impatient):
    released = threading.Event()

    class Blocking(MemoryBoard):
        def get(self, key):
            released.wait(30)
            return super().get(key)

    board = BoundedBoard(Blocking())
    board.put("a", "b")
    with pytest.raises(BoardError, match=r"does not answer within 0\.3 s"):
        board.get("a")
    with pytest.raises(BoardError, match="has not answered yet"):
        board.put("a", "c")
    released.set()
    board._last.join(10)
    assert board.get("a") == "b"


def test_whatever_goes_wrong_in_a_bounded_board_is_a_board_error():
    class Broken(MemoryBoard):
        def get(self, key):
            raise RuntimeError

    with pytest.raises(BoardError):
        BoundedBoard(Broken()).get("a")


def test_where_there_is_no_board_none_can_be_reached():
    assert_fails_soon(NoBoard())
