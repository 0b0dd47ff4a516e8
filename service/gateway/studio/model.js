// What the server has loaded: its name, what it knows, and the bounds it sets for the advanced fields.

import { getJson } from "./api.js";
import { sentence } from "./wording.js";

const RETRY_MS = 5000;
const at = (id) => document.getElementById(id);

function tell(state, words) {
  at("model").dataset.state = state;
  at("model-name").textContent = words;
}

/** Show the first loaded model, looking again while there is none; `onModel` hears what it says of itself. */
export async function showModel(onModel) {
  const again = () => setTimeout(() => showModel(onModel), RETRY_MS);
  try {
    const model = (await getJson("/v1/models")).data[0];
    if (!model) {
      tell("waiting", "No model is ready yet");
      again();
      return;
    }
    tell("ready", [model.id, model.device].filter((word) => word && word !== "none").join(" · "));
    at("model-note").textContent = sentence(model.note);
    at("model-note").hidden = !model.note;
    at("steps").max = String(model.max_steps);
    at("steps").placeholder = String(model.default_steps);
    for (const id of ["width", "height"]) at(id).min = at(id).step = String(model.size_multiple);
    onModel(model);
  } catch (error) {
    tell("trouble", error.status === 401 ? "This server asks for an API key" : "The server does not answer");
    if (error.status === 401) at("advanced").open = true;
    else again();
  }
}

/** A picture this small shows every JPEG artefact once it is enlarged, and costs nothing as PNG. */
export function drawsSmall(model) {
  const [width, height] = String(model.default_size).split("x").map(Number);
  return width * height <= 256 * 256;
}
