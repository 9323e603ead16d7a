"""python -m llama_cu is llama-cu."""

from __future__ import annotations

import sys

from llama_cu.cli.main import run

sys.exit(run())
