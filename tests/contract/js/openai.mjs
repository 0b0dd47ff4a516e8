import OpenAI, { toFile } from "openai";

const { base, pictures } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: base, apiKey: "unused", maxRetries: 0 });
const [person, shirt] = await Promise.all(
  pictures.map((text, at) => toFile(Buffer.from(text, "base64"), `${at}.jpg`, { type: "image/jpeg" })),
);
const nothing = await toFile(Buffer.from("nothing"), "x.jpg", { type: "image/jpeg" });
const image = [person, shirt];

const edit = await client.images.edit({ image, prompt: "", output_format: "webp", quality: "medium" });
const { usage } = edit;

const linked = await client.images.edit({ image, prompt: "", response_format: "url" });
const opened = await fetch(linked.data[0].url);

const events = [];
for await (const event of await client.images.edit({ image, prompt: "", stream: true, partial_images: 2 })) {
  events.push(event.type);
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const wrong = [];
for (const asked of [{ image: [person, nothing] }, { image, n: 2 }, { image: person }, { image, model: "junk" }]) {
  try {
    await client.images.edit({ prompt: "", ...asked });
    wrong.push(null);
  } catch (error) {
    wrong.push([error.constructor.name, error.status, error.param, error.code]);
  }
}

console.log(
  JSON.stringify({
    edit: {
      format: edit.output_format,
      size: edit.size,
      quality: edit.quality,
      total: usage.total_tokens === usage.input_tokens + usage.output_tokens,
      bytes: Buffer.from(edit.data[0].b64_json, "base64").subarray(0, 4).toString(),
    },
    opened: opened.headers.get("content-type"),
    events,
    models,
    wrong,
  }),
);
