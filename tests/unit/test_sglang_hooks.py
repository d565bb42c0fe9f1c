"""A missing hook, which SGLang only logs, ends the start with our model; other models keep SGLang's behaviour."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.managers import mm_schedule
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_context
from typing_extensions import override

from sglang_speechlm.model import announce
from sglang_speechlm.sglang_hooks import registry

MISSING = "sglang.srt.managers.scheduler.Scheduler.method_of_another_version"


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HookRegistry, "_patched", {target for target, _, _ in registry.HOOKS})


@pytest.mark.usefixtures("applied")
def test_a_missing_hook_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HOOKS", [*registry.HOOKS, (MISSING, print, HookType.AFTER)])
    with pytest.raises(RuntimeError, match=MISSING):
        registry.refuse_missing_hooks(object())


class Renamed:
    """Overrides a method that its base has renamed."""

    @override
    def gone(self) -> None: ...  # type: ignore[misc]


@pytest.mark.usefixtures("applied")
def test_a_lost_override_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "own_classes", lambda: [Renamed])
    with pytest.raises(RuntimeError, match=r"Renamed\.gone"):
        registry.refuse_missing_hooks(object())


@pytest.mark.usefixtures("applied")
def test_a_complete_set_of_hooks_is_accepted() -> None:
    registry.refuse_missing_hooks(object())


def test_a_lost_function_of_the_http_server_is_named() -> None:
    from sglang_speechlm.sglang_hooks import http  # imports all of SGLang's server

    with pytest.raises(RuntimeError, match="function_of_another_version"):
        http._put_in_place(function_of_another_version=print)


def _serve(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    server_args = SimpleNamespace(_model_config=config)
    monkeypatch.setattr(get_context(), "_server_args", server_args)


def _doubled(original: Any, value: int) -> int:
    return 2 * int(original(value))


def _must_not_run(*_: Any) -> None:
    raise AssertionError


def test_hooks_act_if_speechlm_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve("speechlm", monkeypatch)
    assert registry.only_for_speechlm(_doubled, HookType.AROUND)(abs, -3) == 6


def test_hooks_leave_another_model_to_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve("qwen3", monkeypatch)
    assert registry.only_for_speechlm(_doubled, HookType.AROUND)(abs, -3) == 3
    assert registry.only_for_speechlm(_must_not_run, HookType.BEFORE)(1) is None
    assert registry.only_for_speechlm(_must_not_run, HookType.AFTER)(1) is None


def test_an_external_model_package_named_by_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_EXTERNAL_MODEL_PACKAGE", "another.package")
    monkeypatch.delenv("SGLANG_EXTERNAL_MM_MODEL_ARCH", raising=False)
    announce()
    assert os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] == "another.package"
    assert os.environ["SGLANG_EXTERNAL_MM_MODEL_ARCH"] == "SpeechLMForConditionalGeneration"


def test_a_clip_stays_in_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve("speechlm", monkeypatch)
    hook = next(hook for target, hook, _ in registry.HOOKS if target.endswith("_move_items_to_device"))
    item = SimpleNamespace(feature=torch.zeros(128, 100))
    registry.only_for_speechlm(hook, HookType.AROUND)(
        mm_schedule._move_items_to_device, [item], torch.device("meta"), None
    )
    assert item.feature.device.type == "cpu"
