"""What `llama-cu bench` measures. Nothing but the command line and benchmarks/ imports it."""
