"""What is read of a config, and what is kept out of every record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import inputs
from leviathan_train.config.load import Config, load_config
from leviathan_train.config.redact import quoted, redact, secrets
from leviathan_train.errors import UsageError
from support.demo import MakeConfig

PASS = "open-sesame-1"


def check_inputs(config: Config) -> None:
    """Raise the first fault."""
    for fault in inputs.input_faults(config):
        raise fault


@pytest.mark.parametrize(
    "values",
    [
        {"hub_token": PASS},
        {"wandb_key": PASS},
        {"aws_secret_access_key": PASS},
        {"aws_access_key_id": PASS},
        {"private_key": PASS},
        {"api_keys": [PASS]},
        {"auth": f"Bearer {PASS}"},
        {"datasets": [{"storage_options": {"key": PASS}}]},
        {"path": f"https://{PASS}@host/x.jsonl"},
        {"path": f"https://user:{PASS}@host/x.jsonl"},
        {"path": f"https://host/x.jsonl?token={PASS}&b=1"},
    ],
)
def test_no_credential_passes(values: dict[str, Any]) -> None:
    assert PASS not in str(redact(values))


def test_a_number_may_be_a_password_and_tokens_may_be_text() -> None:
    assert redact({"hub_password": 12345678}) == {"hub_password": "[redacted]"}
    text = {"eot_tokens": ["<|im_end|>"], "tokens": ["a"], "special_tokens": {"pad_token": 3}}
    assert redact(text) == text
    kept = {"path": "https://host/x.jsonl", "learning_rate": 0.1, "base_model": "a/b"}
    assert redact(kept) == kept


def test_the_credentials_of_a_config_are_known_and_not_shown() -> None:
    values = {"wandb_api_key": PASS, "datasets": [{"token": "other"}], "seed": 1}
    assert secrets(values) == {PASS, "other"}
    assert quoted("wandb_api_key", PASS) == "[redacted]"
    assert quoted("seed", None) == "not set" and quoted("seed", 1) == "1"
    assert len(quoted("base_model", "x" * 100)) == 60


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"plugins": 5}, "plugins is not a list"),
        ({"adapter": ["lora"]}, "adapter is not a name"),
        ({"lr_scheduler": [1]}, "lr_scheduler is not a name"),
        ({"datasets": 5}, "datasets is not a list"),
        ({"output_dir": 2024}, "output_dir is not the name"),
        ({"output_dir": "a\0b"}, "output_dir is not the name"),
    ],
)
def test_values_of_another_kind_are_told(
    make_config: MakeConfig, tmp_path: Path, overrides: dict[str, Any], told: str
) -> None:
    path = make_config(tmp_path, **overrides)
    with pytest.raises(UsageError, match=told):
        check_inputs(load_config(path))


def test_a_date_that_is_none_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("output_dir: run\nfoo: 2024-13-45\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(path)


@pytest.mark.parametrize("remote", ["s3://bucket/train.jsonl", "https://example.org/train.jsonl"])
def test_remote_data_is_not_looked_for_here(
    make_config: MakeConfig, tmp_path: Path, remote: str
) -> None:
    path = make_config(tmp_path, datasets=[{"path": remote, "type": "alpaca"}])
    check_inputs(load_config(path))


def test_a_quote_that_is_never_closed_is_reported_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text('output_dir: run\nbase_model: "model\nadapter: lora\nlora_r: 8\n')
    with pytest.raises(UsageError, match="line 2, column 13"):
        load_config(path)


def test_an_unclosed_quote_is_told_where_it_begins_and_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('output_dir: run\noptimizer: "adamw_torch\nseed: 1\n')
    with pytest.raises(UsageError, match=r"line 2, column 12.*quote.*never closed"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base_model: x\nlora_r:8\nlora_alpha: 16\n", "line 2, column 1.*a colon and a space"),
        ("base_model: x\nchat: a: b\n", "line 2, column 8.*a colon too many"),
        ("base_model: x\nlora_r: 8\n\toutput_dir: y\n", "line 3, column 1.*a tab"),
    ],
)
def test_what_yaml_objects_to_is_told_in_words_and_where_it_is(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        load_config(path)


def test_a_base_model_that_is_nearly_named_is_guessed(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError) as error:
        check_inputs(load_config(make_config(tmp_path, base_model=str(tmp_path / "modle"))))
    assert error.value.hint == f"Did you mean {tmp_path / 'model'}?"
