// The page: a conversation, and the form for the next question.
import { Recorder, readable, wavFile } from "./audio.js";
import { answer } from "./events.js";
import { Turn } from "./turn.js";

const at = (id) => document.getElementById(id);
let turns = [];
let clip = null; // {data: base64, format, name, url}
let recorder = null;
let asking = null; // AbortController of the running question

at("cfg").addEventListener("input", showScale);
at("record").addEventListener("click", () => record().catch(failed));
at("upload").addEventListener("change", () => takeClip(at("upload").files[0], at("upload").files[0].name).catch(failed));
at("drop-clip").addEventListener("click", dropClip);
at("curl").addEventListener("click", () => copyCurl().catch(failed));
at("stop").addEventListener("click", () => asking?.abort());
at("new").addEventListener("click", startOver);
at("api_key").addEventListener("change", showServer);
at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
showServer();

async function showServer() {
  try {
    const models = await (await fetch("v1/models", { headers: headers() })).json();
    const name = models.data?.[0]?.id;
    // A model without a name is served under its path.
    at("server").textContent = name ? `serving ${name.split("/").filter(Boolean).pop()}` : "this server needs an API key (Settings)";
    if (name) showDecoding((await (await fetch("server_info", { headers: headers() })).json()).decoding);
  } catch {
    at("server").textContent = "the server does not answer";
  }
}

/** Shows the checkpoint's decoding defaults: guidance as a value, the others as placeholders. */
function showDecoding({ text, audio }) {
  at("cfg").defaultValue = audio.cfg; // the browser keeps the user's value
  showScale();
  at("text_temperature").placeholder = text.temperature;
  at("audio_temperature").placeholder = audio.temperature;
  at("audio_topk").placeholder = audio.top_k;
  if (text.max_tokens && audio.max_frames) {
    at("max_tokens").defaultValue = "";
    at("max_tokens").placeholder = `${text.max_tokens} + ${audio.max_frames}`;
  }
}

function showScale() { at("cfg-shown").value = Number(at("cfg").value).toFixed(1); }

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

async function takeClip(chosen, name) {
  const file = await readable(chosen);
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  const format = (file === chosen && name.match(/\.(\w+)$/)?.[1]) || "wav";
  holdClip({ data: url.slice(url.indexOf(",") + 1), format, name, url: URL.createObjectURL(file) });
}

function holdClip(held) {
  clip = held;
  at("clip").textContent = held.name;
  at("clip").hidden = at("drop-clip").hidden = false;
}

function dropClip() {
  clip = null;
  at("upload").value = "";
  at("clip").hidden = at("drop-clip").hidden = true;
}

/** Returns the user's message in the form. */
function message() {
  const content = [];
  if (clip) content.push({ type: "input_audio", input_audio: { data: clip.data, format: clip.format } });
  if (at("message").value.trim()) content.push({ type: "text", text: at("message").value });
  return { role: "user", content };
}

/** Returns the body of a request for an answer to `messages`; `text` is the answer's text, if it is given. */
function body(messages, text) {
  const number = (id) => (at(id).value ? Number(at(id).value) : undefined); // if omitted, the checkpoint's default
  const spoken = text !== undefined || document.querySelector("input[name=mode]:checked").value === "spoken";
  const speechlm = { text_temperature: number("text_temperature"), seed: number("seed") };
  if (spoken) {
    Object.assign(speechlm, {
      mode: "text_audio", cfg: number("cfg"), text,
      audio_temperature: number("audio_temperature"), audio_topk: number("audio_topk"),
    });
  }
  return {
    model: "default", messages, max_tokens: number("max_tokens"),
    stream: true, stream_options: { include_usage: true }, speechlm,
  };
}

function history(until = turns.length) {
  return turns.slice(0, until).flatMap((turn) => turn.history());
}

/** Quotes `text` for a POSIX shell. */
function quoted(text) { return `'${text.replaceAll("'", "'\\''")}'`; }

async function copyCurl() {
  const key = at("api_key").value;
  const json = JSON.stringify({ ...body([...history(), message()]), stream: false, stream_options: undefined });
  const words = ["curl", quoted(String(new URL("v1/chat/completions", location.href)))];
  if (key) words.push("-H", quoted(`Authorization: Bearer ${key}`));
  words.push("-H", quoted("Content-Type: application/json"), "-d", quoted(json));
  await navigator.clipboard.writeText(words.join(" "));
  at("copied").textContent = "copied";
}

function failed(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}

function startOver() {
  asking?.abort();
  turns = [];
  at("turns").replaceChildren();
  at("empty").hidden = false;
  at("new").disabled = true;
}

async function ask() {
  at("copied").textContent = "";
  at("error").hidden = true;
  const question = message(), text = at("message").value, heard = clip;
  const turn = new Turn(question, text.trim(), heard);
  const before = history();
  turn.onEdit((edited) => answerIn(turn, [...history(turns.indexOf(turn)), turn.message], edited));
  at("turns").append(turn.element);
  at("empty").hidden = true;
  at("new").disabled = false;
  at("message").value = "";
  dropClip();
  await answerIn(turn, [...before, question]);
  if (turn.history().length > 1) {
    turns.push(turn);
  } else if (!at("message").value && !clip) { // it failed: let the user edit and resend it
    at("message").value = text;
    if (heard) holdClip(heard);
  }
}

/** Sends the question, and shows the answer in `turn`, replacing any earlier one. */
async function answerIn(turn, messages, text) {
  const request = body(messages, text);
  turn.clear();
  at("send").disabled = true;
  at("stop").hidden = false;
  asking = new AbortController();
  turn.element.scrollIntoView({ block: "end" });
  await turn.show(answer(request, headers(), asking.signal));
  asking = null;
  at("send").disabled = false;
  at("stop").hidden = true;
  turn.element.scrollIntoView({ block: "end" });
}
