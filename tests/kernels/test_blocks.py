import os
import threading

import pytest

from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads


@pytest.fixture(params=["1", "4"], autouse=True)
def _threads(request, monkeypatch):
    monkeypatch.setenv("UNSEEN_THREADS", request.param)


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_every_piece_is_done_once(count):
    done = []
    in_parallel(done.append, count)
    assert sorted(done) == list(range(count))


def test_pieces_run_at_the_same_time(monkeypatch):
    monkeypatch.setenv("UNSEEN_THREADS", "3")
    together = threading.Barrier(3, timeout=20)
    in_parallel(lambda _: together.wait(), 3)


def test_one_piece_runs_in_the_calling_thread():
    found = []
    in_parallel(lambda _: found.append(threading.current_thread()), 1)
    assert found == [threading.current_thread()]


def test_pieces_may_have_pieces():
    done = []
    in_parallel(lambda i: in_parallel(lambda j: done.append((i, j)), 5), 5)
    assert sorted(done) == [(i, j) for i in range(5) for j in range(5)]


def test_an_exception_is_raised_and_nothing_runs_afterwards():
    done = []

    def work(index):
        if index == 2:
            raise ValueError("piece 2")
        done.append(index)

    with pytest.raises(ValueError, match="piece 2"):
        in_parallel(work, 10_000)
    before = len(done)
    in_parallel(lambda _: None, 100)
    assert len(done) == before < 9_999


def test_an_exception_of_a_helper_is_raised(monkeypatch):
    monkeypatch.setenv("UNSEEN_THREADS", "2")
    here = threading.current_thread()
    together = threading.Barrier(2, timeout=20)

    def work(_):
        together.wait()
        if threading.current_thread() is not here:
            raise KeyError("helper")

    with pytest.raises(KeyError, match="helper"):
        in_parallel(work, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    in_parallel(lambda _: None, 8)
    child = os.fork()
    if child == 0:
        done = []
        in_parallel(done.append, 8)
        os._exit(0 if sorted(done) == list(range(8)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("text", ["0", "-1", "many", "", "1.5"])
def test_a_number_of_threads_that_is_none(monkeypatch, text):
    monkeypatch.setenv("UNSEEN_THREADS", text)
    with pytest.raises(UsageError, match="UNSEEN_THREADS"):
        threads()


def test_threads_are_the_cores_of_this_process(monkeypatch):
    monkeypatch.delenv("UNSEEN_THREADS")
    assert 1 <= threads() <= os.cpu_count()


@pytest.mark.parametrize(("length", "count"), [(0, 3), (1, 3), (7, 3), (8, 1), (10, 10), (100, 7)])
def test_ranges_make_up_the_whole(length, count):
    found = ranges(length, count)
    assert [i for some in found for i in range(some.start, some.stop)] == list(range(length))
    sizes = [some.stop - some.start for some in found]
    assert len(found) == min(length, count)
    assert not sizes or 1 <= min(sizes) >= max(sizes) - 1
