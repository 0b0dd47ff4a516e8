import Fashn from "fashn";

const { base, person, garment, webhook } = JSON.parse(process.argv[2]);
const client = new Fashn({ baseURL: base, apiKey: "unused", maxRetries: 0 });
const inputs = { model_image: person, garment_image: garment };
const model_name = "tryon-v1.6";
const told = webhook === null ? {} : { webhook_url: webhook };

const done = await client.predictions.subscribe({ model_name, inputs, ...told }, { pollInterval: 100 });
const picture = await fetch(done.output[0]);
const inline = await client.predictions.subscribe(
  { model_name, inputs: { ...inputs, return_base64: true, output_format: "jpeg" } },
  { pollInterval: 100 },
);

const wrong = [];
const nothing = `data:image/jpeg;base64,${Buffer.from("nothing").toString("base64")}`;
for (const ask of [
  () => client.predictions.run({ model_name, inputs: { ...inputs, garment_image: nothing } }),
  () => client.predictions.run({ model_name, inputs: { ...inputs, category: "socks" } }),
  () => client.predictions.status("none"),
]) {
  try {
    await ask();
    wrong.push(null);
  } catch (error) {
    wrong.push([error.constructor.name, error.status, error.error.error]);
  }
}

console.log(
  JSON.stringify({
    id: done.id,
    status: done.status,
    output: done.output,
    kind: picture.headers.get("content-type"),
    credits: done.creditsUsed,
    inline: inline.output[0].slice(0, 23),
    wrong,
  }),
);
