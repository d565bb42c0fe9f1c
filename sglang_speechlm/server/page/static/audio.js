// Sound input and output: record to WAV, play PCM16 slices as they arrive, and draw them.

/** Returns a mono 16-bit WAV file of float samples. */
export function wavFile(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, string) => [...string].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((s, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(s * 32768))), true));
  return new Blob([view], { type: "audio/wav" });
}

const READ_BY_SERVERS = /(wav|wave|mpeg|mp3|flac|ogg|aiff|basic|caf)$/;

/** Converts a sound file of an unusual format, such as a telephone's, to WAV if this browser can decode it. */
export async function readable(file) {
  if (READ_BY_SERVERS.test(file.type)) return file;
  try {
    const buffer = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
    const mean = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c++) {
      buffer.getChannelData(c).forEach((s, i) => { mean[i] += s / buffer.numberOfChannels; });
    }
    return wavFile(mean, buffer.sampleRate);
  } catch {
    return file; // the server decodes it, or reports what is wrong with it
  }
}

/** Returns the float samples of base64 PCM16. */
export function fromPcm16(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (s) => s / 32768);
}

/** Plays slices one after the other without gaps; counts how often it had to wait. */
export class Speaker {
  constructor(rate) {
    this.context = new AudioContext();
    this.rate = rate;
    this.until = 0;
    this.waits = 0;
  }

  play(samples) {
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const now = this.context.currentTime;
    if (this.until && this.until < now) this.waits += 1;
    this.until = Math.max(this.until, now + 0.05);
    source.start(this.until);
    this.until += buffer.duration;
  }

  close() { return this.context.close(); }
}

/** Records the microphone until stop(), which returns {samples, rate}. */
export class Recorder {
  static async start() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("tap.js", import.meta.url));
    const recorder = new Recorder();
    Object.assign(recorder, { stream, context, parts: [] });
    const tap = new AudioWorkletNode(context, "tap");
    tap.port.onmessage = (event) => recorder.parts.push(event.data);
    context.createMediaStreamSource(stream).connect(tap);
    return recorder;
  }

  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    return { samples: joined(this.parts), rate };
  }
}

/** Concatenates arrays. */
export function joined(parts) {
  const whole = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  parts.reduce((at, part) => { whole.set(part, at); return at + part.length; }, 0);
  return whole;
}

/** Draws the peaks of the samples, column by column. */
export function drawWaveform(canvas, samples) {
  const { width, height } = canvas;
  const paint = canvas.getContext("2d");
  paint.clearRect(0, 0, width, height);
  paint.fillStyle = "#2b6cb0";
  for (let x = 0; x < width; x++) {
    const from = Math.floor((x * samples.length) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * samples.length) / width));
    let peak = 0;
    for (let i = from; i < to; i++) peak = Math.max(peak, Math.abs(samples[i] ?? 0));
    const bar = Math.max(1, peak * height);
    paint.fillRect(x, (height - bar) / 2, 1, bar);
  }
}

/** Draws log magnitudes of 512-point transforms, with low frequencies at the bottom. */
export function drawSpectrogram(canvas, samples) {
  const { width, height } = canvas;
  const paint = canvas.getContext("2d");
  const image = paint.createImageData(width, height);
  const size = 512;
  const window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  for (let x = 0; x < width; x++) {
    const start = Math.floor((x * Math.max(0, samples.length - size)) / width);
    const real = new Float32Array(size), imaginary = new Float32Array(size);
    for (let i = 0; i < size; i++) real[i] = (samples[start + i] ?? 0) * window[i];
    transform(real, imaginary);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor(((height - 1 - y) * (size / 2)) / height);
      const level = Math.log10(1e-6 + Math.hypot(real[bin], imaginary[bin])) / 8 + 0.75;
      const value = Math.max(0, Math.min(1, level));
      const at = 4 * (y * width + x);
      image.data[at] = 255 * value ** 1.5;
      image.data[at + 1] = 200 * value ** 2;
      image.data[at + 2] = 255 * Math.min(1, 0.25 + value) * value;
      image.data[at + 3] = 255;
    }
  }
  paint.putImageData(image, 0, 0);
}

/** In-place radix-2 fast Fourier transform (Cooley and Tukey, 1965). */
function transform(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let length = 2; length <= n; length <<= 1) {
    const step = (-2 * Math.PI) / length;
    for (let start = 0; start < n; start += length) {
      for (let k = 0; k < length / 2; k++) {
        const c = Math.cos(step * k), s = Math.sin(step * k);
        const a = start + k, b = a + length / 2;
        const r = real[b] * c - imaginary[b] * s, i = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - r; imaginary[b] = imaginary[a] - i;
        real[a] += r; imaginary[a] += i;
      }
    }
  }
}
