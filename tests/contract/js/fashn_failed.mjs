import Fashn from "fashn";

const { base, person, garment } = JSON.parse(process.argv[2]);
const client = new Fashn({ baseURL: base, apiKey: "unused", maxRetries: 0 });
const done = await client.predictions.subscribe(
  { model_name: "tryon-v1.6", inputs: { model_image: person, garment_image: garment } },
  { pollInterval: 100 },
);
console.log(JSON.stringify({ status: done.status, error: done.error }));
