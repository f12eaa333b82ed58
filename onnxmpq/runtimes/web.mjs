// Runs a model in onnxruntime-web (WebAssembly, one thread): node web.mjs PACKAGE MODEL
// Every line of standard input is a feed, every line of standard output what came of it; tensors are base64.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [, , packageFolder, modelPath] = process.argv;
const ort = await import(pathToFileURL(`${packageFolder}/dist/ort.node.min.mjs`).href);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";

const arrays = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

function tensor({ type, shape, data }) {
  const bytes = Buffer.from(data, "base64");
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return new ort.Tensor(type, new arrays[type](buffer), shape);
}

function told(value) {
  const view = new arrays[value.type](value.data);
  const bytes = Buffer.from(view.buffer, view.byteOffset, view.byteLength);
  return { type: value.type, shape: [...value.dims], data: bytes.toString("base64") };
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

let session;
try {
  session = await ort.InferenceSession.create(readFileSync(modelPath), { executionProviders: ["wasm"] });
  say({ loaded: session.outputNames });
} catch (error) {
  say({ error: String(error?.message ?? error) });
  process.exit(0);
}
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const feed = Object.fromEntries(Object.entries(JSON.parse(line)).map(([name, value]) => [name, tensor(value)]));
    const began = performance.now();
    const found = await session.run(feed);
    const seconds = (performance.now() - began) / 1000;
    say({ seconds, outputs: Object.fromEntries(Object.entries(found).map(([name, value]) => [name, told(value)])) });
  } catch (error) {
    say({ error: String(error?.message ?? error) });
  }
}
