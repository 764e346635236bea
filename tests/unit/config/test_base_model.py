"""A base model is known by its weights, in whatever folder and files they are."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from leviathan_train.config import base_model
from leviathan_train.config.base_model import base_facts, fingerprint, model_folder, same_base

Tensors = Mapping[str, torch.Tensor]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors as a small model has them; together 19 MB, more than is read of a model."""
    made = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (1024, 2048),
        "model.layers.0.self_attn.q_proj.weight": (1024, 1024),
        "model.layers.0.input_layernorm.weight": (1024,),
        "lm_head.weight": (1024, 1600),
    }
    return {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}


def model(folder: Path, tensors: Tensors, config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def same(one: Path, other: Path) -> bool | None:
    return same_base(base_facts(str(one)), base_facts(str(other)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base", weights())


def test_a_copy_in_another_folder_is_the_same(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "moved")
    assert same(base, tmp_path / "moved")


def test_other_weights_of_the_same_architecture_are_another(base: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", weights(seed=1))
    old, new = base_facts(str(base)), base_facts(str(other))
    assert (old["config"], old["bytes"]) == (new["config"], new["bytes"])
    assert same_base(old, new) is False


@pytest.mark.parametrize("name", list(weights()))
def test_one_tensor_that_was_trained_on_is_enough(base: Path, tmp_path: Path, name: str) -> None:
    tensors = weights()
    tensors[name] = tensors[name] * 1.001
    assert same(base, model(tmp_path / "tuned", tensors)) is False


def test_a_changed_region_is_found_wherever_it_lies(base: Path) -> None:
    before = fingerprint(base)
    file = base / "model.safetensors"
    size = file.stat().st_size
    region = 2 * size // base_model.PLACES + base_model.BLOCK
    for start in range(10_000, size - region, size // 7):
        with file.open("r+b") as stream:
            stream.seek(start)
            old = stream.read(region)
            stream.seek(start)
            stream.write(bytes(byte ^ 1 for byte in old))
            stream.flush()
            assert fingerprint(base) != before, start
            stream.seek(start)
            stream.write(old)
    assert fingerprint(base) == before


def test_one_bit_of_a_small_model_is_enough(tmp_path: Path) -> None:
    small = model(tmp_path / "small", {"a.weight": torch.zeros(512, 512)})
    before = fingerprint(small)
    with (small / "model.safetensors").open("r+b") as stream:
        stream.seek(500_001)
        stream.write(b"\1")
    assert fingerprint(small) != before


def test_another_way_to_spread_tensors_over_files_is_the_same(base: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    saved = {"model_type": "llama", "transformers_version": "9", "_name_or_path": "elsewhere"}
    (sharded / "config.json").write_text(json.dumps(saved))
    for number, (name, tensor) in enumerate(load_file(base / "model.safetensors").items()):
        save_file({name: tensor}, sharded / f"model-0000{number}-of-00004.safetensors")
    assert same(base, sharded)


def test_another_dtype_or_config_is_another(base: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in weights().items()}
    assert same(base, model(tmp_path / "half", half)) is False
    other = {"model_type": "llama", "rope_theta": 5}
    assert same(base, model(tmp_path / "config", weights(), other)) is False


def test_bin_files_are_known_by_the_checksums_inside(tmp_path: Path) -> None:
    folders = []
    for number, norm in enumerate([1.0, 1.0, 1.001]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        tensors = {"norm": torch.full((4,), norm), "embed": torch.zeros(3_000_000)}
        torch.save(tensors, folder / "pytorch_model.bin")
        folders.append(folder)
    assert same(folders[0], folders[1])
    assert same(folders[0], folders[2]) is False


def test_a_file_of_no_known_kind_is_sampled_as_a_whole(tmp_path: Path) -> None:
    for name, byte in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "pytorch_model.bin").write_bytes(byte * 20_000_000)
    assert same(tmp_path / "a", tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "c") is False


def in_cache(hub: Path, source: Path, blob: str, commit: str) -> Path:
    """A snapshot in the hub's cache whose weights are the blob of that name."""
    root = hub / "models--org--name"
    snapshot = root / "snapshots" / commit
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "model.safetensors", root / "blobs" / blob)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob}")
    shutil.copy(source / "config.json", snapshot)
    return snapshot


def test_the_hubs_own_hashes_decide_where_both_have_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    in_cache(tmp_path / "hub", base, "a" * 64, "one")
    old = base_facts("org/name", "one")
    assert old["files"] == {"model.safetensors": "a" * 64}
    in_cache(tmp_path / "hub", base, "b" * 64, "two")
    assert same_base(old, base_facts("org/name", "two")) is False
    assert same_base(old, base_facts(str(base))), "out of the cache the fingerprint decides"


def test_the_revision_that_the_cache_knows_as_main_is_taken(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    old = in_cache(tmp_path / "hub", base, "a" * 64, "old")
    new = in_cache(tmp_path / "hub", base, "b" * 64, "new")
    os.utime(old, (1, 1))
    assert model_folder("org/name") == new
    (tmp_path / "hub/models--org--name/refs/main").write_text("old")
    assert model_folder("org/name") == old
    assert model_folder("org/name", "new") == new


def test_seals_without_a_fingerprint_are_judged_by_config_and_size(
    base: Path, tmp_path: Path
) -> None:
    old = {key: base_facts(str(base))[key] for key in ("name", "config", "bytes")}
    assert same_base(old, base_facts(str(base)))
    assert same_base(old, base_facts(str(model(tmp_path / "other", weights(seed=1)))))
    assert same_base(old | {"bytes": 1}, base_facts(str(base))) is False
    assert same_base({"name": "org/a"}, {"name": "org/a"})
    assert same_base({"name": "org/a"}, {"name": "org/b"}) is None


def test_two_gigabytes_take_under_a_second(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    each, count = 8_000_000, 250
    header = {
        f"layer.{number}.weight": {
            "dtype": "BF16",
            "shape": [each // 2],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(count)
    }
    text = json.dumps(header).encode()
    with (big / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + each * count)
    began = time.process_time()
    assert fingerprint(big)
    assert time.process_time() - began < 1.0
