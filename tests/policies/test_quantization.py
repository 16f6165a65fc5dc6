from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.quantization import check_quantization, quantized_loading

QLORA = {"model": "GSAI-ML/LLaDA-8B-Instruct", "quantization": "nf4", "lora": {}}


def test_nothing_is_asked_of_the_library_without_quantization():
    assert quantized_loading(None) == {}
    check_quantization(None)


def test_weights_are_double_quantised_nf4_with_products_in_bfloat16():
    config = quantized_loading("nf4")["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_weights_are_quantised_on_this_processs_device(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert quantized_loading("nf4")["device_map"] == {"": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_quantization_that_cannot_run_is_refused_before_anything_is_read(monkeypatch):
    path = "dmpo.policies.quantization.is_bitsandbytes_available"
    for is_installed, reason in ((False, "not installed here"), (True, "none here")):
        monkeypatch.setattr(path, lambda found=is_installed: found)
        with pytest.raises(ConfigError, match=f"nf4 needs bitsandbytes: .*{reason}") as caught:
            LladaPolicy(LladaConfig.model_validate(QLORA))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({**QLORA, "lora": None}, "add adapters"),
        ({"scratch": {}, "quantization": "nf4", "lora": {}}, "scratch loads nothing"),
        ({**QLORA, "quantization": "int8"}, "nf4"),
    ],
)
def test_quantization_that_cannot_be_meant_is_refused(settings, text):
    with pytest.raises(ValidationError, match=text):
        LladaConfig.model_validate(settings)
