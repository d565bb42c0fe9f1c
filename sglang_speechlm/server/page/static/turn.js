// One turn of the conversation: a question, and its answer as text, sound and pictures.
import { Speaker, drawSpectrogram, drawWaveform, fromPcm16, joined, wavFile } from "./audio.js";

export class Turn {
  /** Takes the user's message as sent, and its clip: {data, format, url} or null. */
  constructor(message, text, clip) {
    this.message = message;
    this.element = document.getElementById("turn").content.firstElementChild.cloneNode(true);
    this.find(".question .text").textContent = text;
    if (clip) {
      this.find(".clip").src = clip.url;
      this.find(".clip").hidden = false;
    }
    this.clear();
  }

  find(selector) { return this.element.querySelector(selector); }

  /** Clears the answer for another one. */
  clear() {
    Object.assign(this, { text: "", thinking: "", audioId: null, parts: [], rate: null, seconds: {}, usage: null, speaker: null });
    for (const name of ["thinking", "error", "warnings", "waveform", "spectrogram", "player", "download", "edit", "editing", "facts"]) {
      this.find(`.${name}`).hidden = true;
    }
    this.find(".answer > .text").textContent = "";
    this.find(".warnings").replaceChildren();
  }

  /** Returns what later turns send of this one: the question, and the answer, by the id of its sound if it has one. */
  history() {
    const reply = { role: "assistant", content: this.text };
    if (this.thinking) reply.reasoning_content = this.thinking;
    if (this.audioId) reply.audio = { id: this.audioId };
    return this.text || this.thinking || this.audioId ? [this.message, reply] : [this.message];
  }

  /** Shows an answer while its events arrive. */
  async show(events) {
    this.began = performance.now();
    this.element.classList.add("busy");
    try {
      for await (const event of events) this.take(event);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    } finally {
      this.element.classList.remove("busy");
      this.finish();
    }
  }

  since() { return (performance.now() - this.began) / 1000; }

  take(event) {
    this.usage = event.usage ?? this.usage;
    const delta = event.choices?.[0]?.delta ?? {};
    if (delta.reasoning_content) {
      this.thinking += delta.reasoning_content;
      this.find(".thinking").hidden = false;
      this.find(".thinking p").textContent = this.thinking;
    }
    if (delta.content) {
      this.seconds.text ??= this.since();
      this.text += delta.content;
      this.find(".answer > .text").textContent = this.text.trimStart();
    }
    if (delta.audio?.id) this.audioId = delta.audio.id;
    if (delta.audio?.sample_rate) this.rate = delta.audio.sample_rate;
    if (delta.audio?.data) this.play(fromPcm16(delta.audio.data));
    for (const warning of delta.speechlm?.warnings ?? []) this.warn(warning);
  }

  play(samples) {
    this.seconds.sound ??= this.since();
    this.speaker ??= new Speaker(this.rate);
    this.parts.push(samples);
    this.speaker.play(samples);
    this.find(".waveform").hidden = false;
    drawWaveform(this.find(".waveform"), joined(this.parts));
  }

  warn(text) {
    const item = document.createElement("li");
    item.textContent = text;
    this.find(".warnings").append(item);
    this.find(".warnings").hidden = false;
  }

  fail(error) {
    this.find(".error").textContent = error.message;
    this.find(".error").hidden = false;
  }

  /** Shows the figures of an answer that has ended, complete or not. */
  finish() {
    const whole = this.since();
    const rows = [["first text", this.seconds.text], ["first sound", this.seconds.sound], ["whole answer", whole]]
      .filter(([, value]) => value !== undefined).map(([name, value]) => [name, `${value.toFixed(2)} s`]);
    const samples = joined(this.parts);
    if (samples.length) {
      const length = samples.length / this.rate;
      rows.push(["sound", `${length.toFixed(2)} s, real-time factor ${(whole / length).toFixed(2)}`]);
      rows.push(["pauses while playing", String(this.speaker.waits)]);
      drawSpectrogram(this.find(".spectrogram"), samples);
      this.find(".player").src = this.find(".download").href = URL.createObjectURL(wavFile(samples, this.rate));
      for (const name of ["spectrogram", "player", "download"]) this.find(`.${name}`).hidden = false;
    }
    if (this.usage) rows.push(["tokens", `${this.usage.prompt_tokens} in, ${this.usage.completion_tokens} out`]);
    this.find(".facts dl").replaceChildren(...rows.flatMap(([name, value]) => {
      const term = document.createElement("dt"), fact = document.createElement("dd");
      term.textContent = name;
      fact.textContent = value;
      return [term, fact];
    }));
    this.find(".facts").hidden = false;
    this.find(".edit").hidden = !this.text && !this.thinking;
  }

  /** Lets the user edit plan and text; calls `speak` with the whole text to speak. */
  onEdit(speak) {
    const form = this.find(".editing"), plan = form.querySelector(".plan"), text = form.querySelector(".spoken-text");
    this.find(".edit").addEventListener("click", () => {
      plan.hidden = !this.thinking;
      plan.querySelector("textarea").value = this.thinking;
      text.value = this.text;
      form.hidden = false;
    });
    form.querySelector(".cancel").addEventListener("click", () => { form.hidden = true; });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const thinking = plan.hidden ? "" : plan.querySelector("textarea").value;
      speak(thinking ? `<think>${thinking}</think>${text.value}` : text.value);
    });
  }
}
