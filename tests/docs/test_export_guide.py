"""The guide's commands run as typed, and the server that it shows answers as it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmpo.cli.main import main
from tests.cli.command import SMALL
from tests.docs.fences import DOCS, fences

PAGE = "guides/export.md"


def test_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (fence.text for fence in fences(PAGE) if fence.language == "bash")
    for line in block.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "dmpo"
        short = ("--steps", "1", *SMALL[2:]) if arguments[0] == "train" else ()
        assert main([*arguments, *short]) == 0, line
    assert Path("models/adapter/adapter_model.safetensors").is_file()
    assert Path("models/mine/model.safetensors").is_file()


def test_guide_names_the_published_ids() -> None:
    from dmpo.policies.llada import PUBLISHED

    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert f"({PUBLISHED.mask}, {PUBLISHED.eos}, {PUBLISHED.eos})" in text
    assert f"{PUBLISHED.num_rows:,}" in text


SERVER = DOCS.parent / "examples" / "serve.py"
PROMPT = "4123004002300012="
HEADERS = {"Content-Type": "application/json"}
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Start the server on a free port, as a process, and return where it says it is."""
    command = (sys.executable, str(SERVER), "--port", "0")
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            found = re.fullmatch(
                r"tiny_llada on (http://127\.0\.0\.1:\d+)\n", server.stdout.readline()
            )
            assert found
            yield found[1]
        finally:
            server.terminate()


def asked(
    url: str, body: Any = None, *, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, HEADERS if headers is None else headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_server_lists_its_model(url: str) -> None:
    status, listed = asked(f"{url}/v1/models")
    assert (status, [model["id"] for model in listed["data"]]) == (200, ["tiny_llada"])


def test_server_answers_what_generate_answers(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = asked(f"{url}/v1/completions", {"prompt": PROMPT, "max_tokens": 16})
    assert main(["generate", "--prompt", PROMPT, "--gen-length", "16"]) == 0
    assert (status, answer["object"]) == (200, "text_completion")
    (choice,) = answer["choices"]
    assert choice["text"] in capsys.readouterr().out
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 17, "completion_tokens": 16, "total_tokens": 33}


def test_several_completions_follow_the_seed(url: str) -> None:
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 2.0, "n": 4}
    once, again, other = (
        [choice["text"] for choice in asked(f"{url}/v1/completions", body | more)[1]["choices"]]
        for more in ({"seed": 1}, {"seed": 1}, {"seed": 2})
    )
    assert len(set(once)) > 1
    assert once == again != other


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "prompt: required and not given."),
        ({"prompt": 3}, "prompt: must be text; given 3."),
        ({"prompt": "☃"}, "prompt: the tokenizer has no token for"),
        ({"prompt": ""}, "prompt: "),
        ({"prompt": "1", "max_tokens": 0}, "max_tokens: "),
        ({"prompt": "1", "max_tokens": 10**6}, "exceed the model's context of 512"),
        ({"prompt": "1", "temperature": -1}, "temperature: "),
        ({"prompt": "1", "n": 2}, "n: completions at temperature 0 are alike"),
        ({"prompt": "1", "n": 33, "temperature": 1}, "n: "),
        ({"prompt": "1", "stream": True}, "stream: unknown key; accepted: max_tokens, model"),
        ({"prompt": "1", "model": "other"}, "model: 'other' is not served here"),
        ([], "must be"),
        (b"{", "Invalid JSON"),
    ],
)
def test_bad_request_is_one_line_with_status_400(url: str, body: Any, said: str) -> None:
    status, answer = asked(f"{url}/v1/completions", body)
    assert status == 400
    assert said in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]


def test_server_takes_json_at_its_own_paths_alone(url: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert asked(f"{url}/v1/completions", {"prompt": "1"}, headers=form)[0] == 400
    assert asked(f"{url}/v1/chat/completions", {"prompt": "1"})[0] == 404
    assert asked(f"{url}/")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "/nowhere"), "serve: error: policy.model: "),
        (("--set", "sampler.name=other"), "serve: error: sampler: unknown name 'other'"),
    ],
)
def test_server_that_cannot_start_says_why_in_a_line(arguments: tuple[str, ...], said: str) -> None:
    run = subprocess.run(
        [sys.executable, str(SERVER), *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith(said)
    assert run.stderr.count("\n") == 1


def test_guide_lists_the_fields_of_a_request() -> None:
    spec = importlib.util.spec_from_file_location("serve", SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Request.model_rebuild(_types_namespace=vars(module))
    text = (DOCS / PAGE).read_text(encoding="utf-8").split("| field of the request |")[1]
    fields = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert fields == list(module.Request.model_fields)
