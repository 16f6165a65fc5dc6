from __future__ import annotations

import json
import shutil
from pathlib import Path

from dmpo_dream.policy import DreamPolicy, DreamPolicyConfig


def test_code_beside_a_dream_is_never_imported(small_directory: Path, tmp_path: Path) -> None:
    canary, model = tmp_path / "canary", tmp_path / "model"
    shutil.copytree(small_directory, model)
    trap = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    for name in ("modeling_dream", "configuration_dream", "tokenization_dream", "__init__"):
        (model / f"{name}.py").write_text(trap)
    for name, auto in {
        "config.json": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }.items():
        content = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**content, "auto_map": auto}))
    DreamPolicy(DreamPolicyConfig(model=str(model))).load_weights(model)
    assert not canary.exists()
