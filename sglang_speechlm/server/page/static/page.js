// The page: one question at a time, its answer read, heard and seen while it is being made.
import { Recorder, Speaker, drawSpectrogram, drawWaveform, fromPcm16, joined, wavFile } from "./audio.js";

const at = (id) => document.getElementById(id);
let clip = null; // {data: base64, format, name}
let recorder = null;
let asking = null; // AbortController of the running question

at("cfg").addEventListener("input", () => { at("cfg-shown").value = Number(at("cfg").value).toFixed(1); });
at("record").addEventListener("click", () => record().catch(failed));
at("upload").addEventListener("change", () => takeClip(at("upload").files[0], at("upload").files[0].name).catch(failed));
at("drop-clip").addEventListener("click", dropClip);
at("curl").addEventListener("click", () => copyCurl().catch(failed));
at("stop").addEventListener("click", () => asking?.abort());
at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask().catch(failed); });
fetch("v1/models", { headers: headers() })
  .then((answer) => answer.json())
  .then((models) => { at("server").textContent = `serving ${models.data?.[0]?.id ?? "a model that wants an API key"}`; })
  .catch(() => { at("server").textContent = "the server does not answer"; });

function headers() {
  const key = at("api_key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function record() {
  const button = at("record");
  if (recorder) {
    const { samples, rate } = await recorder.stop();
    recorder = null;
    button.textContent = "Record a clip";
    button.setAttribute("aria-pressed", "false");
    await takeClip(wavFile(samples, rate), `recording, ${(samples.length / rate).toFixed(1)} s`);
    return;
  }
  recorder = await Recorder.start();
  button.textContent = "Stop recording";
  button.setAttribute("aria-pressed", "true");
}

async function takeClip(file, name) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  clip = { data: url.slice(url.indexOf(",") + 1), format: name.match(/\.(\w+)$/)?.[1] ?? "wav" };
  at("clip").textContent = name;
  at("drop-clip").hidden = false;
}

function dropClip() {
  clip = null;
  at("upload").value = "";
  at("clip").textContent = "no clip";
  at("drop-clip").hidden = true;
}

function body() {
  const number = (id) => Number(at(id).value);
  const spoken = document.querySelector("input[name=mode]:checked").value === "spoken";
  const content = [];
  if (clip) content.push({ type: "input_audio", input_audio: { data: clip.data, format: clip.format } });
  if (at("message").value.trim()) content.push({ type: "text", text: at("message").value });
  const speechlm = { text_temperature: number("text_temperature") };
  if (spoken) {
    Object.assign(speechlm, {
      mode: "text_audio", cfg: number("cfg"),
      audio_temperature: number("audio_temperature"), audio_topk: number("audio_topk"),
    });
  }
  if (at("seed").value) speechlm.seed = number("seed");
  return {
    model: "default", messages: [{ role: "user", content }], max_tokens: number("max_tokens"),
    stream: true, stream_options: { include_usage: true }, speechlm,
  };
}

async function copyCurl() {
  const key = at("api_key").value ? ` -H 'Authorization: Bearer ${at("api_key").value}'` : "";
  const json = JSON.stringify({ ...body(), stream: false, stream_options: undefined }).replaceAll("'", "'\\''");
  const url = new URL("v1/chat/completions", location.href);
  await navigator.clipboard.writeText(`curl ${url}${key} -H 'Content-Type: application/json' -d '${json}'`);
  at("copied").textContent = "copied";
}

function failed(error) {
  if (error.name === "AbortError") return;
  at("error").textContent = error.message;
  at("error").hidden = false;
}

async function ask() {
  at("copied").textContent = "";
  at("error").hidden = true;
  at("sound").hidden = at("waveform").hidden = at("spectrogram").hidden = true;
  at("timings").replaceChildren();
  at("answer").textContent = "";
  at("answer").classList.remove("empty");
  at("send").disabled = true;
  at("stop").disabled = false;
  asking = new AbortController();
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  const seconds = {};
  const parts = [];
  let speaker = null;
  let rate = 16000;
  let usage = null;
  try {
    const answer = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body()), signal: asking.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? `status ${answer.status}`);
    for await (const chunk of events(answer.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      const delta = chunk.choices?.[0]?.delta ?? {};
      if (delta.content) {
        seconds.text ??= since();
        at("answer").textContent += delta.content;
      }
      if (delta.audio?.sample_rate) rate = delta.audio.sample_rate;
      if (delta.audio?.data) {
        seconds.sound ??= since();
        speaker ??= new Speaker(rate);
        const samples = fromPcm16(delta.audio.data);
        parts.push(samples);
        speaker.play(samples);
        at("waveform").hidden = false;
        drawWaveform(at("waveform"), joined(parts));
      }
      for (const warning of delta.speechlm?.warnings ?? []) failed(new Error(warning));
    }
  } finally {
    at("send").disabled = false;
    at("stop").disabled = true;
    asking = null;
    finish(joined(parts), rate, seconds, since(), speaker, usage);
  }
}

/** The parsed data of server-sent events, up to [DONE]. */
async function* events(stream) {
  let rest = "";
  for await (const text of decoded(stream)) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function* decoded(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function finish(samples, rate, seconds, whole, speaker, usage) {
  const facts = [["first text", seconds.text], ["first sound", seconds.sound], ["whole answer", whole]];
  const rows = facts.filter(([, value]) => value !== undefined).map(([name, value]) => [name, `${value.toFixed(2)} s`]);
  if (samples.length) {
    const length = samples.length / rate;
    rows.push(["sound", `${length.toFixed(2)} s, made in ${(whole / length).toFixed(2)} times its length`]);
    rows.push(["waits while playing", String(speaker.waits)]);
    at("spectrogram").hidden = false;
    drawSpectrogram(at("spectrogram"), samples);
    const url = URL.createObjectURL(wavFile(samples, rate));
    at("player").src = at("download").href = url;
    at("sound").hidden = false;
  }
  if (usage) rows.push(["tokens", `${usage.prompt_tokens} read, ${usage.completion_tokens} made`]);
  at("timings").replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt"), fact = document.createElement("dd");
    term.textContent = name;
    fact.textContent = value;
    return [term, fact];
  }));
}
