"""SGLang logs a hook that it could not apply, and serves on; with our model it must not."""

from types import SimpleNamespace

import pytest
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_speechlm.model.speechlm import SpeechLMForConditionalGeneration
from sglang_speechlm.sglang_hooks import registry

GONE = "sglang.srt.managers.scheduler.Scheduler.method_of_another_version"
OURS = SimpleNamespace(model=SpeechLMForConditionalGeneration.__new__(SpeechLMForConditionalGeneration))


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HookRegistry, "_patched", {target for target, _, _ in registry.HOOKS})


@pytest.mark.usefixtures("applied")
def test_a_missing_hook_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HOOKS", [*registry.HOOKS, (GONE, print, HookType.AFTER)])
    with pytest.raises(RuntimeError, match=GONE):
        registry.refuse_missing_hooks(OURS)


@pytest.mark.usefixtures("applied")
def test_other_models_are_served_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HOOKS", [*registry.HOOKS, (GONE, print, HookType.AFTER)])
    registry.refuse_missing_hooks(SimpleNamespace(model=object()))


@pytest.mark.usefixtures("applied")
def test_all_hooks_are_enough() -> None:
    registry.refuse_missing_hooks(OURS)
