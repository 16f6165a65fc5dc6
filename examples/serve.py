"""Serve a checkpoint over HTTP, one request after the other: POST /v1/completions, GET /v1/models.

    python examples/serve.py --model MODEL --port 8000 --set sampler.block_length=32

For trying a model out on your own machine: a lock in place of a queue, no batches over requests,
no streaming, and nobody is asked who they are. It listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import Field, ValidationError

from dmpo.config.assembly import build_policy, build_sampler, place_on_accelerator
from dmpo.config.layers import sourced
from dmpo.config.overrides import command_line_layer
from dmpo.config.preflight import NamedText, check_prompts
from dmpo.config.resolve import resolve_generate
from dmpo.errors import ConfigError, DataError, DmpoError
from dmpo.records import Example
from dmpo.settings import Settings, first_validation_message
from dmpo.training.randomness import generator_for

MAX_BYTES = 1 << 20


class Request(Settings):
    """The body of a request; what is not here is refused."""

    prompt: str
    max_tokens: int = Field(128, ge=1, description="Canvas length.")
    temperature: float = Field(0.0, ge=0)
    n: int = Field(1, ge=1, le=32)
    seed: int = Field(0, ge=0)
    model: str | None = None


class Served:
    """A policy in memory, and the settings that every request starts from."""

    def __init__(self, model: str | None, sets: list[str]) -> None:
        """Check the settings, then load the weights."""
        self.layer = command_line_layer(sets, [("--model", "policy.model", model)] if model else [])
        config = resolve_generate([self.layer]).config
        build_sampler(config.sampler)
        self.policy = build_policy(config.policy)
        place_on_accelerator(self.policy)
        self.name = model or "tiny_llada"
        self.lock = threading.Lock()

    def complete(self, request: Request) -> dict[str, Any]:
        """Return what /v1/completions answers."""
        if request.model not in (None, self.name):
            raise ConfigError(f"model: {request.model!r} is not served here; {self.name!r} is.")
        if request.n > 1 and request.temperature == 0:
            raise ConfigError("n: completions at temperature 0 are alike; give a temperature.")
        asked = {"gen_length": request.max_tokens, "temperature": request.temperature}
        layer = sourced({"sampler": asked}, "request")
        sampler = build_sampler(resolve_generate([self.layer, layer]).config.sampler)
        draws = generator_for(request.seed, 0, 0, "generate")
        with self.lock, self.policy.evaluating():
            named = NamedText("prompt", request.prompt)
            check_prompts(self.policy, [named], room=request.max_tokens)
            prompts = self.policy.encode([Example(prompt=request.prompt)])
            found = sampler.sample(self.policy, prompts, num_rollouts=request.n, generator=draws)
        ended = (found.completions[0] == self.policy.eos_token_id).any(dim=-1)
        choices = [
            {"index": index, "text": text, "finish_reason": "stop" if end else "length"}
            for index, (text, end) in enumerate(zip(found.texts[0], ended.tolist(), strict=True))
        ]
        read, written = int(prompts.attention_mask.sum()), int(found.answer_mask.sum())
        used = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        head = {"id": f"cmpl-{time.time_ns():x}", "object": "text_completion", "model": self.name}
        return head | {"created": int(time.time()), "choices": choices, "usage": used}


class Handler(BaseHTTPRequestHandler):
    """Turns requests into calls, and errors into one line of JSON."""

    served: Served
    timeout = 60  # for a body that does not come

    def do_GET(self) -> None:
        """List the one model."""
        if self.path != "/v1/models":
            return self.fail(404, f"{self.path}: not here; /v1/models and /v1/completions are.")
        models = [{"id": self.served.name, "object": "model", "owned_by": "dmpo"}]
        return self.reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        """Complete a prompt."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/v1/completions":
            return self.fail(404, f"{self.path}: not here; /v1/models and /v1/completions are.")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            return self.fail(400, f"Content-Length: must be a number up to {MAX_BYTES}.")
        if self.headers.get_content_type() != "application/json":  # any web page can send others
            return self.fail(400, "Content-Type: must be application/json.")
        try:
            request = Request.model_validate_json(self.rfile.read(int(length)))
            return self.reply(200, self.served.complete(request))
        except ValidationError as error:
            return self.fail(400, first_validation_message(error, Request))
        except (ConfigError, DataError) as error:
            return self.fail(400, str(error))

    def fail(self, status: int, message: str) -> None:
        """Say what was wrong with the request."""
        self.reply(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        """Send one JSON object."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


def main() -> None:
    """Load the model, say where it is served, and answer until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a checkpoint on 127.0.0.1.")
    parser.add_argument("--model", help="a directory or a hub id; left out: the packaged one")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    try:
        Handler.served = Served(options.model, options.set)
        server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    except (DmpoError, OSError, OverflowError) as error:
        sys.exit(f"serve: error: {error}")
    sys.stdout.write(f"{Handler.served.name} on http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
