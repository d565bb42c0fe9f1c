// Speak a text to a file, transcribe it, and answer it: completely, and as a stream of raw sound at 24 kHz.
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:9000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const model = "speechlm";
const spoken = { model, modalities: ["text", "audio"], max_tokens: 1000 };

const speech = await client.audio.speech.create({
  model,
  voice: "alloy",
  input: "What is the capital of Italy?",
  response_format: "wav",
  speed: 0.9,
});
await writeFile("speech.wav", Buffer.from(await speech.arrayBuffer()));

const transcript = await client.audio.transcriptions.create({ model, file: createReadStream("speech.wav") });
console.log("heard:", transcript.text);

const messages = [{ role: "user", content: "What is the capital of Italy?" }];
const completion = await client.chat.completions.create({
  ...spoken,
  messages,
  audio: { voice: "alloy", format: "wav" },
});
const { content, audio } = completion.choices[0].message;
console.log("answered:", content);
await writeFile("answer.wav", Buffer.from(audio.data, "base64"));

const stream = await client.chat.completions.create({
  ...spoken,
  messages: [...messages, { role: "assistant", audio: { id: audio.id } }, { role: "user", content: "And of France?" }],
  audio: { voice: "alloy", format: "pcm16" },
  stream: true,
});
const pieces = [];
for await (const chunk of stream) {
  for (const { delta } of chunk.choices) {
    process.stdout.write(delta.content ?? "");
    if (delta.audio?.data) pieces.push(Buffer.from(delta.audio.data, "base64"));
  }
}
console.log();
await writeFile("stream.pcm", Buffer.concat(pieces));
