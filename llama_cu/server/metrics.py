"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"llama_cu_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"llama_cu_{name}", text, buckets=_LATENCIES_S, registry=self.registry)

        self.requests = counter("requests", "Finished requests.", "route", "outcome")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = counter(
            "prompt_tokens_cached", "Tokens of prompts whose K and V were found in the cache."
        )
        self.generated_tokens = counter("generated_tokens", "Tokens of answers.")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to first token.")
        self.inter_token = histogram("inter_token_latency_seconds", "Between tokens of an answer.")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when Prometheus asks."""
        Gauge(f"llama_cu_{name}", text, registry=self.registry).set_function(read)
