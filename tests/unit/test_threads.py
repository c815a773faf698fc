import threading

import pytest
from threadpoolctl import threadpool_info

from slamglmm.linalg.threads import BLOCK, BlockPool, blocks, single_threaded_blas


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_blocks_cover_the_range_in_constant_steps(n):
    """Boundaries must not depend on anything but n: streams are tied to them."""
    parts = blocks(n)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    assert all(part.stop - part.start == BLOCK for part in parts[:-1])


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_errors_come_out(threads):
    pool = BlockPool(threads)
    assert pool.run(lambda i: i * i, range(100)) == [i * i for i in range(100)]

    def fail(i):
        if i >= 3:
            raise ValueError(f"block {i}")

    with pytest.raises(ValueError, match="block 3"):
        pool.run(fail, range(10))
    pool.close()


def test_one_thread_stays_in_this_thread():
    pool = BlockPool(1)
    assert set(pool.run(lambda _: threading.get_ident(), range(4))) == {threading.get_ident()}


def test_blas_is_held_at_one_thread():
    with single_threaded_blas():
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}
