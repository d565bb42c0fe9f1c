"""A server with default options generates the reference's ids on all eight streams, whatever the batches."""

from dataclasses import replace

import numpy as np
import pytest
from server import BY_NAME, CASES, Case, Client, Judge, clip, message_of, samples_of

WITH_SOUND = ("spoken", "spoken answer to audio", "given text", "audio_min_frames", "audio cut by audio_max_frames")
WITHOUT_SOUND = ("text uses up max_tokens", "too few frames for a sound")
REPEATED = ("text", "spoken", "clips in system and user turns", "given text after audio", "long prompt")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_single_answer_equals_the_reference(case: Case, client: Client, judge: Judge) -> None:
    client.clear_cache()
    judge.compare([case], [client.chat(case.body())])


@pytest.mark.parametrize("first", [0, len(CASES) - 16])
def test_sixteen_concurrent_answers_equal_the_reference(first: int, client: Client, judge: Judge) -> None:
    cases = CASES[first : first + 16]
    client.clear_cache()
    assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 1000


def test_sixteen_repeated_concurrent_answers_equal_the_reference(client: Client, judge: Judge) -> None:
    cases = CASES[:16]
    bodies = [case.body() for case in cases]
    client.chat_at_once(bodies)
    assert judge.compare(cases[::-1], client.chat_at_once(bodies[::-1])) > 1000


def test_sixteen_identical_concurrent_answers_equal_the_reference(client: Client, judge: Judge) -> None:
    case = BY_NAME["spoken"]
    client.clear_cache()
    assert judge.compare([case] * 16, client.chat_at_once([case.body()] * 16)) > 1000


def test_greedy_answers_are_not_changed_by_sampled_ones_in_the_batch(client: Client, judge: Judge) -> None:
    greedy, sampled = CASES[:8], CASES[8:16]
    bodies = [case.body() for case in greedy] + [{**case.body(), "temperature": 1.5, "top_k": 50} for case in sampled]
    client.clear_cache()
    assert judge.compare(greedy, client.chat_at_once(bodies)[:8]) > 500


@pytest.mark.parametrize("name", REPEATED)
def test_a_repeated_prompt_is_found_in_the_radix_cache(name: str, client: Client, judge: Judge) -> None:
    case = BY_NAME[name]
    client.clear_cache()
    client.chat(case.body())
    response = client.chat(case.body())
    judge.compare([case], [response])
    extension = message_of(response)["speechlm"]
    prompt = response["usage"]["prompt_tokens"]
    if case.request.text is None:
        assert extension["cached_tokens"]["text"] >= prompt - 4
    if case.request.speak:
        assert extension["cached_tokens"]["audio"] >= prompt + len(extension["text_ids"]) + 2 - 4


def test_the_audio_stage_reuses_the_cache_of_the_text_stage(client: Client) -> None:
    client.clear_cache()
    response = client.chat(BY_NAME["spoken"].body())
    extension = message_of(response)["speechlm"]
    assert extension["cached_tokens"]["text"] == 0
    assert (
        extension["cached_tokens"]["audio"] >= response["usage"]["prompt_tokens"] + len(extension["text_ids"]) + 2 - 4
    )


def test_a_clip_is_not_confused_with_another_of_the_same_length(client: Client, judge: Judge) -> None:
    case = BY_NAME["audio question"]
    messages = [*case.request.messages]
    messages[1] = ("user", [("audio", clip(1, 2.0)[::-1].copy())])
    other = Case("audio question, reversed", replace(case.request, messages=messages))
    client.clear_cache()
    judge.compare([case, other, case], [client.chat(item.body()) for item in (case, other, case)])
    assert judge.answer(case).text_ids != judge.answer(other).text_ids


def test_frames_never_enter_the_radix_cache(client: Client, judge: Judge) -> None:
    """Its keys are ids of stream 0 only, so cached values must not depend on other streams."""
    reference = judge.reference
    ids = reference.ids
    rows = [int(row[0]) for row in reference.prompt(BY_NAME["spoken"].request.messages)]
    prompt = [*rows, ids.text, *reference.encode("Hello."), ids.eot, ids.assistant, ids.audio]
    stage = {"temperature": 0, "max_new_tokens": 30, "custom_params": {"audio": True, "min_frames": 30}}
    client.clear_cache()
    spoken = client.generate({"input_ids": prompt, "sampling_params": stage})
    again = client.generate({"input_ids": [*prompt, *spoken["output_ids"]], "sampling_params": stage})
    assert len(spoken["output_ids"]) == 30
    assert len(prompt) - 4 <= again["meta_info"]["cached_tokens"] <= len(prompt)


def test_every_choice_equals_the_reference(client: Client, judge: Judge) -> None:
    case = BY_NAME["spoken after history"]
    response = client.chat({**case.body(), "n": 3})
    choices = [{**response, "choices": [choice]} for choice in response["choices"]]
    assert len(choices) == 3
    answer = judge.answer(case)
    for choice in choices:
        extension = message_of(choice)["speechlm"]
        assert extension["text_ids"] == answer.text_ids
        np.testing.assert_array_equal(extension["codes"], answer.codes)


@pytest.mark.parametrize("name", WITH_SOUND)
def test_the_sound_of_an_answer_is_decoded_from_its_codes(name: str, client: Client, judge: Judge) -> None:
    message = message_of(client.chat(BY_NAME[name].body()))
    expected = judge.reference.audio(np.array(message["speechlm"]["codes"]))
    samples = samples_of(message)
    assert samples.shape == expected.shape
    assert expected.std() > 0.01
    np.testing.assert_allclose(samples, np.clip(expected, -1, 1), rtol=0, atol=1e-4)


def test_the_sound_of_sixteen_concurrent_answers_is_decoded_from_their_codes(client: Client, judge: Judge) -> None:
    bodies = [case.body() for case in CASES if case.request.speak and case.name not in WITHOUT_SOUND][:16]
    for response in client.chat_at_once(bodies):
        message = message_of(response)
        expected = judge.reference.audio(np.array(message["speechlm"]["codes"]))
        np.testing.assert_allclose(samples_of(message), np.clip(expected, -1, 1), rtol=0, atol=1e-4)


def test_a_long_prompt_of_several_answers_is_computed_once(client: Client, judge: Judge) -> None:
    ids = judge.reference.ids
    prompt = [ids.bos, ids.user, ids.text, *range(300, 700), ids.eos, ids.assistant, ids.text]
    client.clear_cache()
    answers = client.generate({"input_ids": prompt, "sampling_params": {"n": 4, "max_new_tokens": 2}})
    none, *others = sorted(answer["meta_info"]["cached_tokens"] for answer in answers)
    assert none == 0
    assert min(others) >= len(prompt) - 4


def test_long_prompts_of_guided_choices_are_computed_once_in_each_branch(client: Client, judge: Judge) -> None:
    request = replace(BY_NAME["given text"].request, cfg=3.0, audio_max_frames=10)
    case = Case("long", replace(request, messages=[("user", [("text", "Once upon a time. " * 100)])]))
    client.clear_cache()
    response = client.chat({**case.body(), "n": 3})
    choices = [choice["message"]["speechlm"] for choice in response["choices"]]
    for choice in choices:
        np.testing.assert_array_equal(choice["codes"], judge.answer(case).codes)
    for branch in ("audio", "audio_unconditional"):
        none, *others = sorted(choice["cached_tokens"][branch] for choice in choices)
        assert none == 0
        assert min(others) >= response["usage"]["prompt_tokens"]
