"""Scripts in SGLang's frontend language get the same results as plain HTTP."""

import base64
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sglang as sgl
import soundfile
from server import SECONDS, Client, Server, assert_same_sound, clip, launch, message_of, samples_of, wav
from server.process import free_port

from sglang_speechlm import frontend
from sglang_speechlm.frontend import SpeechLMError

SYSTEM = "You are a helpful assistant."
QUESTION = "What is machine learning?"
GREEDY = {"temperature": 0, "max_new_tokens": 24}
SCALES = (1.0, 2.0, 5.0)
FRAMES: Any = {"audio_max_frames": 16}

ROOT = Path(__file__).parents[2]
SCRIPTING = ROOT / "docs" / "scripting.md"
URL = "http://127.0.0.1:9000"
SCRIPT_SCALES = (1.0, 1.5, 2.0)
FAILING = """
from sglang_speechlm import frontend
import sglang as sgl

@sgl.function
def program(s):
    s += sgl.user("Hi.") + sgl.assistant("Nothing much.")
    forks = s.fork(2)
    forks += lambda i: frontend.speak("voice", cfg=(1.0, 50.0)[i], audio_max_frames=20)
    forks.join()

program.run(backend=frontend.SpeechLM("{url}"))
"""

State = Any


@pytest.fixture(scope="module")
def backend(metered: Server) -> frontend.SpeechLM:
    return frontend.SpeechLM(metered.url)


@pytest.fixture
def client(metered: Server) -> Iterator[Client]:
    with Client(metered.url) as client:
        yield client


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """Suppress the frontend language's own warnings about errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def conversation(question: str = QUESTION) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def written_body(question: str = QUESTION) -> dict[str, Any]:
    return {"messages": conversation(question), "temperature": 0, "max_tokens": 24}


def voiced_body(text: str | None, question: str = QUESTION, **speechlm: Any) -> dict[str, Any]:
    fields = {"mode": "text_audio", "audio_temperature": 0, "return_ids": True, **speechlm}
    return {"messages": conversation(question), "speechlm": {**fields, **({"text": text} if text else {})}}


def written(client: Client) -> str:
    return message_of(client.chat(written_body()))["content"]


def voiced(client: Client, text: str | None, **speechlm: Any) -> Any:
    return message_of(client.chat(voiced_body(text, **speechlm)))


def assert_same_speech(speech: frontend.Speech, message: Any) -> None:
    """Fail unless a script's speech equals a chat answer."""
    assert speech.text == message["content"]
    ended = f"ended by {speech.finish_reason}, {speech.cached_tokens}"
    assert len(speech.codes) == len(message["speechlm"]["codes"]), ended
    assert speech.codes == message["speechlm"]["codes"], ended
    samples, rate = soundfile.read(io.BytesIO(speech.wav), dtype="float32")
    assert rate == message["audio"]["sample_rate"]
    assert_same_sound(samples, samples_of(message))


@sgl.function
def speak_three_times(s: State, question: str) -> None:
    s += sgl.system(SYSTEM)
    s += sgl.user(question)
    s += sgl.assistant(sgl.gen("reply"))
    forks = s.fork(len(SCALES))
    forks += lambda i: frontend.speak("voice", cfg=SCALES[i], audio_temperature=0, **FRAMES)
    forks.join()


def test_one_text_with_three_guidance_scales_equals_http(backend: frontend.SpeechLM, client: Client) -> None:
    state = speak_three_times.run(QUESTION, backend=backend, **GREEDY)
    text, voices = state["reply"].lstrip(), state["voice"]
    bodies = [written_body(), *(voiced_body(text, cfg=scale, **FRAMES) for scale in SCALES)]
    reply, *spoken = map(message_of, client.chat_at_once(bodies))
    assert state["reply"] == reply["content"]
    for speech, message in zip(voices, spoken, strict=True):
        assert_same_speech(speech, message)
    assert len({str(speech.codes) for speech in voices}) == len(SCALES)
    assert state.messages()[-1] == {"role": "assistant", "content": state["reply"].lstrip()}


def test_forks_share_their_cached_prefix(backend: frontend.SpeechLM, client: Client) -> None:
    client.clear_cache()
    state = speak_three_times.run(QUESTION, backend=backend, **GREEDY)
    prompt = state.get_meta_info("reply")["prompt_tokens"]
    assert state.get_meta_info("reply")["cached_tokens"] == 0
    for speech in state["voice"]:
        assert speech.cached_tokens["audio"] >= prompt


def test_a_batch_of_programs_answers_each(backend: frontend.SpeechLM, client: Client) -> None:
    questions = ("Name a colour.", "Name a river.", QUESTION)
    states = speak_three_times.run_batch([{"question": question} for question in questions], backend=backend, **GREEDY)
    bodies = [
        voiced_body(state["reply"].lstrip(), question, cfg=2.0, **FRAMES)
        for question, state in zip(questions, states, strict=True)
    ]
    messages = map(message_of, client.chat_at_once([*map(written_body, questions), *bodies]))
    assert [state["reply"] for state in states] == [next(messages)["content"] for _ in questions]
    for state, message in zip(states, messages, strict=True):
        assert_same_speech(state["voice"][1], message)


@sgl.function
def best_of_three(s: State) -> None:
    s += sgl.system(SYSTEM) + sgl.user(QUESTION)
    forks = s.fork(3)
    forks += sgl.assistant(sgl.gen("reply", temperature=2.0))
    s["replies"] = [fork["reply"] for fork in forks.states]
    s["longest"] = max(s["replies"], key=len)
    s += sgl.assistant(frontend.speak("voice", text=s["longest"], audio_temperature=0, cfg=3.0, **FRAMES))


def test_a_branch_is_selected_and_spoken(backend: frontend.SpeechLM, client: Client) -> None:
    state = best_of_three.run(backend=backend, max_new_tokens=60)
    assert len(set(state["replies"])) > 1
    assert_same_speech(state["voice"], voiced(client, state["longest"], cfg=3.0, **FRAMES))
    assert state.messages()[-1] == {"role": "assistant", "content": state["longest"].lstrip()}


@sgl.function
def write_and_speak(s: State, seed: int | None) -> None:
    s += sgl.system(SYSTEM)
    s += sgl.user(QUESTION)
    s += sgl.assistant(frontend.speak("answer", seed=seed, cfg=1.5))


def test_an_empty_turn_is_written_and_spoken_in_one_request(backend: frontend.SpeechLM, client: Client) -> None:
    state = write_and_speak.run(7, backend=backend, temperature=1.0, max_new_tokens=20)
    sampling: Any = {"text_temperature": 1.0, "text_top_k": -1, "text_max_tokens": 20, "audio_temperature": None}
    message = voiced(client, None, seed=7, cfg=1.5, **sampling)
    assert_same_speech(state["answer"], message)
    assert state["answer"] == message["content"]
    assert state.text().endswith(message["content"])


@sgl.function
def speak_inside_the_turn(s: State) -> None:
    s += sgl.system(SYSTEM)
    s += sgl.user(QUESTION)
    with s.assistant():
        s += sgl.gen("reply") + frontend.speak("voice", audio_temperature=0, **FRAMES)
    s += sgl.user("And in one word?")
    s += sgl.assistant(sgl.gen("short"))


def test_a_program_continues_after_speech(backend: frontend.SpeechLM, client: Client) -> None:
    state = speak_inside_the_turn.run(backend=backend, **GREEDY)
    reply = state["reply"].lstrip()
    assert_same_speech(state["voice"], voiced(client, reply, **FRAMES))
    messages = [
        *conversation(),
        {"role": "assistant", "content": reply},
        {"role": "user", "content": "And in one word?"},
    ]
    response = client.chat({"messages": messages, "temperature": 0, "max_tokens": 24})
    assert state["short"] == message_of(response)["content"]


@sgl.function
def listen(s: State, sound: bytes | Path) -> None:
    s += sgl.user("Listen to this:" + frontend.audio(sound) + "What was it?")
    s += sgl.assistant(sgl.gen("reply"))


@pytest.mark.parametrize("as_file", [True, False])
def test_a_clip_keeps_its_position_in_the_turn(
    as_file: bool, backend: frontend.SpeechLM, client: Client, tmp_path: Path
) -> None:
    data = wav(clip(3, 0.7))
    (tmp_path / "clip.wav").write_bytes(base64.b64decode(data))
    state = listen.run(tmp_path / "clip.wav" if as_file else base64.b64decode(data), backend=backend, **GREEDY)
    parts = [
        {"type": "text", "text": "Listen to this:"},
        {"type": "input_audio", "input_audio": {"data": data}},
        {"type": "text", "text": "What was it?"},
    ]
    response = client.chat({"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 24})
    assert state["reply"] == message_of(response)["content"]
    assert state.get_meta_info("reply")["prompt_tokens"] == response["usage"]["prompt_tokens"]


def test_a_streaming_program_gives_the_same_result(backend: frontend.SpeechLM, client: Client) -> None:
    state = speak_inside_the_turn.run(backend=backend, stream=True, **GREEDY)
    assert "".join(state.text_iter("reply")) == written(client)
    state.sync()
    assert_same_speech(state["voice"], voiced(client, state["reply"].lstrip(), **FRAMES))


def test_several_answers_of_one_gen_are_a_list(backend: frontend.SpeechLM) -> None:
    @sgl.function
    def program(s: State) -> None:
        s += sgl.user(QUESTION) + sgl.assistant(sgl.gen("replies", n=3, temperature=2.0))

    replies = program.run(backend=backend)["replies"]
    assert len(replies) == 3
    assert len(set(replies)) > 1


def test_a_speech_is_saved_as_a_wav_file(backend: frontend.SpeechLM, tmp_path: Path) -> None:
    state = write_and_speak.run(1, backend=backend, **GREEDY)
    state["answer"].save(tmp_path / "answer.wav")
    samples, rate = soundfile.read(tmp_path / "answer.wav")
    assert rate == state["answer"].sample_rate == 16000
    assert len(samples) == 320 * len(state["answer"].codes)
    assert len(soundfile.read(io.BytesIO(state["answer"].wav))[0]) == len(samples)


@sgl.function
def overguided(s: State) -> None:
    s += sgl.user(QUESTION)
    s += sgl.assistant(sgl.gen("reply") + frontend.speak("voice", cfg=50.0))


@pytest.mark.usefixtures("no_warnings")
def test_a_refusal_is_raised_where_the_variable_is_read(backend: frontend.SpeechLM, client: Client) -> None:
    state = overguided.run(backend=backend, **GREEDY)
    with pytest.raises(SpeechLMError, match=r"400: speechlm\.cfg: .*50") as refusal:
        state["voice"]
    assert refusal.value.status == 400
    assert state["reply"]


@pytest.mark.usefixtures("no_warnings")
def test_a_refusal_is_raised_by_the_next_statement(backend: frontend.SpeechLM) -> None:
    state = overguided.run(backend=backend, **GREEDY)
    state.sync()
    with pytest.raises(SpeechLMError, match="cfg"):
        state += sgl.user("Go on.")
    with pytest.raises(SpeechLMError, match="cfg"):
        state.fork(2)
    with pytest.raises(SpeechLMError, match="cfg"):
        state.fork(1)


@pytest.mark.usefixtures("no_warnings")
def test_a_refusal_in_a_fork_is_raised_where_they_join(backend: frontend.SpeechLM) -> None:
    @sgl.function
    def program(s: State) -> None:
        s += sgl.user(QUESTION) + sgl.assistant("Nothing much.")
        forks = s.fork(2)
        forks += lambda i: frontend.speak("voice", cfg=(1.0, 50.0)[i], **FRAMES)
        forks.join()

    with pytest.raises(SpeechLMError, match="cfg"):
        program.run(backend=backend)


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (sgl.user(QUESTION) + sgl.gen("x"), "as the assistant"),
        (sgl.user(QUESTION) + frontend.speak("x"), "as the assistant"),
        (sgl.user(QUESTION) + sgl.assistant("Well, " + sgl.gen("x")), "must come first"),
        (sgl.user(QUESTION) + sgl.assistant() + frontend.speak("x"), "nothing to speak"),
        (sgl.user(QUESTION) + sgl.assistant(sgl.gen("x", regex="a|b")), "regex is not supported"),
        (sgl.user(QUESTION) + sgl.assistant(sgl.gen("x", choices=["a", "b"])), "RuntimeEndpoint"),
        (sgl.user("What is \ufffc?") + sgl.assistant(sgl.gen("x")), "U\\+FFFC"),
        (sgl.user(QUESTION) + sgl.assistant(frontend.speak("x", text="Hi.", audio_max_frames=3)), "no audio"),
        (sgl.user(frontend.audio(b"noise")) + sgl.assistant(sgl.gen("x")), "400: .*audio"),
    ],
)
def test_unsupported_statements_raise_a_clear_error(statement: Any, message: str, backend: frontend.SpeechLM) -> None:
    @sgl.function
    def program(s: State) -> None:
        s += statement

    with pytest.raises(SpeechLMError, match=message):
        program.run(backend=backend)["x"]


def run_script(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a script as a user does, in its folder; return the exit status and the output."""
    (folder / "script.py").write_text(text)
    monkeypatch.chdir(folder)
    with (folder / "output").open("wb") as output:
        status = launch([], output, launcher="script").wait(SECONDS)
    return status, (folder / "output").read_text()


def test_the_documented_script_runs(metered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = re.findall(r"```python\n(.*?)```", SCRIPTING.read_text(), re.DOTALL)
    (script,) = (script for script in scripts if "sgl.function" in script)
    assert URL in script
    status, output = run_script(script.replace(URL, metered.url), tmp_path, monkeypatch)
    assert status == 0, output
    for scale in SCRIPT_SCALES:
        assert soundfile.info(tmp_path / f"answer-{scale}.wav").frames > 0


def test_a_failed_script_ends_with_the_error(metered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, output = run_script(FAILING.format(url=metered.url), tmp_path, monkeypatch)
    assert status == 1
    assert re.search(r"SpeechLMError: .* 400: speechlm\.cfg: .* got 50\.0", output)


def test_an_unreachable_server_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SpeechLMError, match=url):
        frontend.SpeechLM(url)


def test_sglangs_own_backend_continues_plain_text(metered: Server, client: Client) -> None:
    @sgl.function
    def program(s: State) -> None:
        s += "Once upon a time"
        s += sgl.gen("rest")
        forks = s.fork(2)
        forks += sgl.gen("more")
        forks.join()

    state = program.run(backend=sgl.RuntimeEndpoint(metered.url), temperature=0, max_new_tokens=12)
    params = {"temperature": 0, "max_new_tokens": 12}
    plain = client.generate({"text": "Once upon a time", "sampling_params": params})
    assert state["rest"] == plain["text"]
    assert state["more"][0] == state["more"][1]
