import { EventSource } from "eventsource";

const { address } = JSON.parse(process.argv[2]);
const statuses = [];
const kinds = [];
const events = new EventSource(address, {
  fetch: async (...asked) => {
    const answer = await fetch(...asked);
    statuses.push(answer.status);
    return answer;
  },
});
for (const kind of ["queued", "processing", "progress", "succeeded", "failed", "canceled", "expired"]) {
  events.addEventListener(kind, () => kinds.push(kind));
}
await new Promise((resolve) => {
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) resolve();
  });
});
console.log(JSON.stringify({ statuses, kinds, state: events.readyState }));
