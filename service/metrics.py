"""Every metric name, label and bucket of the service, in one place; the load tester imports the names.

No metric is labelled by job id, prompt, tenant or path: the number of series stays fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REQUESTS_WAITING = "changeroom_requests_waiting"
REQUESTS_RUNNING = "changeroom_requests_running"
REQUESTS_TOTAL = "changeroom_requests_total"
REQUEST_LATENCY = "changeroom_request_latency_seconds"
QUEUE_TIME = "changeroom_queue_time_seconds"
STAGE_LATENCY = "changeroom_stage_latency_seconds"
BATCH_REQUESTS = "changeroom_batch_requests"
BATCH_TOKENS = "changeroom_batch_tokens"
CACHE_EVENTS = "changeroom_cache_events_total"
ADMISSION_REJECTED = "changeroom_admission_rejected_total"
CANCELED = "changeroom_canceled_total"
DEADLINE_EXCEEDED = "changeroom_deadline_exceeded_total"
LEASE_LOST = "changeroom_lease_lost_total"
DEAD_LETTER = "changeroom_dead_letter_total"
WORKER_READY = "changeroom_worker_ready"
GPU_MEMORY = "changeroom_gpu_memory_bytes"
BACKLOG = "changeroom_backlog_seconds"
BUSY = "changeroom_busy_seconds_total"

LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
STAGE_BUCKETS = (0.001, 0.005, 0.01, 0.025, *LATENCY_BUCKETS)
BATCH_BUCKETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
TOKEN_BUCKETS = (512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0)


@dataclass
class Metrics:
    """All metric objects of one process, on one registry.

    Labels: `status` a terminal status, `reason` an error code or "", `garments` "1" to "6", `stage` an
    engine or worker stage, `cache` and `result` ("hit", "miss", "eviction"), `phase` "queued" or
    "running", `kind` "allocated", "reserved" or "total" (the card).
    """

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        on = self.registry
        self.requests_waiting = Gauge(REQUESTS_WAITING, "Jobs queued and not started", registry=on)
        self.requests_running = Gauge(REQUESTS_RUNNING, "Jobs under a lease", registry=on)
        self.requests = Counter(REQUESTS_TOTAL, "Jobs that ended", ["status", "reason"], registry=on)
        self.request_latency = Histogram(
            REQUEST_LATENCY,
            "Acceptance to a finished picture",
            ["garments"],
            buckets=LATENCY_BUCKETS,
            registry=on,
        )
        self.queue_time = Histogram(QUEUE_TIME, "Acceptance to the start of work", buckets=LATENCY_BUCKETS, registry=on)
        self.stage_latency = Histogram(STAGE_LATENCY, "Seconds by stage", ["stage"], buckets=STAGE_BUCKETS, registry=on)
        self.batch_requests = Histogram(BATCH_REQUESTS, "Jobs in a batch", buckets=BATCH_BUCKETS, registry=on)
        self.batch_tokens = Histogram(BATCH_TOKENS, "Tokens in a batch", buckets=TOKEN_BUCKETS, registry=on)
        self.cache_events = Counter(CACHE_EVENTS, "Lookups and evictions", ["cache", "result"], registry=on)
        self.admission_rejected = Counter(ADMISSION_REJECTED, "Requests refused", ["reason"], registry=on)
        self.canceled = Counter(CANCELED, "Jobs canceled by their owner", ["phase"], registry=on)
        self.deadline_exceeded = Counter(DEADLINE_EXCEEDED, "Jobs that met their deadline", registry=on)
        self.lease_lost = Counter(LEASE_LOST, "Leases that ran out", registry=on)
        self.dead_letter = Counter(DEAD_LETTER, "Jobs given up after too many attempts", ["reason"], registry=on)
        self.worker_ready = Gauge(WORKER_READY, "1 after a warm-up try-on succeeded", registry=on)
        self.gpu_memory = Gauge(GPU_MEMORY, "Device memory", ["kind"], registry=on)
        self.backlog_seconds = Gauge(BACKLOG, "Waiting work over the service rate", registry=on)
        self.busy_seconds = Counter(BUSY, "Seconds in which the engine ran a batch", registry=on)
