"""Which requests wait until another has computed their prompt."""

from array import array
from types import SimpleNamespace
from typing import Any

from sglang_speechlm.sglang_hooks.sharing import WORTH_WAITING, is_being_computed

LONG = WORTH_WAITING + 50


def request(ids: range, prefix_len: int = 0, drawn: int = 0) -> Any:
    return SimpleNamespace(origin_input_ids=array("q", ids), prefix_len=prefix_len, output_ids=[7] * drawn)


def waits(own: Any, step: list[Any], running: list[Any], is_shared: bool = True) -> bool:
    cache = SimpleNamespace(supports_prefix_sharing=lambda: is_shared)
    batch = SimpleNamespace(reqs=running)
    adder: Any = SimpleNamespace(can_run_list=step, running_batch=batch, tree_cache=cache)
    return is_being_computed(adder, own)


def test_it_waits_for_the_same_beginning_in_this_step_or_the_last() -> None:
    first, second = request(range(LONG)), request(range(LONG + 9))
    assert waits(second, [first], [])
    assert waits(second, [], [first])
    assert not waits(second, [request(range(1, LONG))], [request(range(2, LONG))])


def test_it_does_not_wait_for_what_the_cache_has() -> None:
    assert not waits(request(range(LONG)), [], [request(range(LONG), drawn=1)])
    assert not waits(request(range(LONG), prefix_len=60), [request(range(LONG))], [])


def test_it_does_not_wait_if_no_cache_will_have_it() -> None:
    assert not waits(request(range(LONG)), [request(range(LONG))], [], is_shared=False)


def test_a_retracted_request_does_not_wait() -> None:
    assert not waits(request(range(LONG), drawn=3), [request(range(LONG))], [])
