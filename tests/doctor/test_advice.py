from __future__ import annotations

from typing import Any

from dmpo.doctor.advice import faster, verdict, wrong
from dmpo.doctor.base import Check
from dmpo.doctor.devices import DeviceFacts
from dmpo.doctor.kernels import Trial
from tests.doctor.facts import devices, gpu, network, trials

GPU = devices(gpus=(gpu(),), seen_by_driver=("NVIDIA H100",), build="CUDA 12.8")


def commands(facts: DeviceFacts, tried: dict[str, Trial]) -> list[str]:
    return [each.command for each in faster(facts, tried, network()) if each.command]


def check(state: Any, *, is_needed: bool = False, name: str = "x", fix: str = "") -> Check:
    return Check(area="system", name=name, state=state, detail="why", is_needed=is_needed, fix=fix)


def test_on_a_gpu_what_is_missing_and_what_is_there_is_said() -> None:
    tried = trials(liger="absent", sdpa="ok", flash_attention_2="absent", compile="ok")
    assert commands(GPU, tried) == [
        "pip install 'liger-kernel>=0.6'",
        "dmpo train --policy.dtype bfloat16",
        "dmpo train --policy.compilation blocks",
        "dmpo train --policy.gradient_checkpointing true --auto-micro-batch",
    ]
    texts = [each.text for each in faster(GPU, tried, network())]
    assert any(text.startswith("flash-attn is not needed") for text in texts)


def test_liger_that_runs_is_not_asked_for() -> None:
    assert not any("liger" in command for command in commands(GPU, trials(liger="ok")))


def test_several_gpus_are_several_processes() -> None:
    facts = devices(gpus=(gpu(), gpu()), seen_by_driver=("A", "A"))
    assert "dmpo train --processes 2" in commands(facts, {})


def test_an_old_gpu_is_not_told_to_use_bfloat16() -> None:
    facts = devices(gpus=(gpu(has_bf16=False),))
    assert not any("bfloat16" in command for command in commands(facts, {}))


def test_where_threads_stand_in_each_others_way_one_is_advised() -> None:
    tried = trials(threads={"gain": 0.4, "count": 4})
    assert commands(devices(), tried) == ["export OMP_NUM_THREADS=1"]


def test_idle_cores_are_named_where_threads_help() -> None:
    tried = trials(threads={"gain": 1.8, "count": 2})
    assert commands(devices(omp_threads="2"), tried) == ["export OMP_NUM_THREADS=4"]
    assert commands(devices(), tried) == []


def test_a_cpu_that_is_slow_in_bfloat16_stays_in_float32() -> None:
    (command,) = commands(devices(), trials(bf16={"speedup": 0.3}))
    assert "--training.mixed_precision no" in command


def test_a_cache_on_another_machine_is_moved() -> None:
    advice = faster(devices(), {}, network(cache_kind="nfs4"))
    assert advice[-1].command == "export HF_HOME=/local/disk/huggingface"


def test_nothing_known_is_no_advice() -> None:
    assert faster(None, {}, None) == ()
    assert faster(devices(torch=""), {}, None) == ()


def test_what_stops_a_run_comes_first_and_brings_its_command() -> None:
    checks = [
        check("warning", name="a"),
        check("ok", name="b"),
        check("absent", name="c"),
        check("failed", name="d", is_needed=True, fix="mend"),
    ]
    assert [(each.text, each.command) for each in wrong(checks)] == [
        ("d: why.", "mend"),
        ("a: why.", ""),
    ]


def test_only_a_needed_check_that_failed_stops_a_run() -> None:
    assert verdict([check("failed"), check("warning", is_needed=True)], devices()) == (
        True,
        "Training can run here, on the CPU (4 cores); 2 things are not as they should be.",
    )
    assert verdict([check("failed", is_needed=True)], devices()) == (
        False,
        "Training cannot run here: x: why.",
    )


def test_the_verdict_names_the_gpus() -> None:
    facts = devices(gpus=(gpu(), gpu()))
    assert verdict([], facts)[1] == "Training can run here, on 2 × NVIDIA H100."
    assert verdict([], None)[1] == "Training can run here, on the CPU (1 core)."
