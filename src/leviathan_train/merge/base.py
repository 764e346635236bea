"""Base models: where one is, and whether its files are all there and can take an adapter."""

from __future__ import annotations

import contextlib
from pathlib import Path

from leviathan_train.config.base_model import is_local
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from leviathan_train.system.files import read_object

INDEX = "model.safetensors.index.json"
"""Which file of several holds which tensor."""


def find_base(name: str, run: Run, revision: str | None = None) -> Path:
    """The folder of a base model; one of the hub that is not in the cache is fetched.

    A relative path starts from the working directory, or from where the run was started.

    Raises:
        UsageError: there is none, or it is not one that can be merged into.
    """
    if not is_local(name):
        return _sound(_from_hub(name, revision))
    session = run.session()
    started_in = Path(session.launch.cwd or ".") if session else Path()
    for folder in (Path(name).expanduser(), started_in / name):
        if (folder / "config.json").is_file():
            return _sound(folder)
    raise UsageError(
        f"The base model {name} does not exist (no {Path(name) / 'config.json'}).",
        "Put it there, or name a config whose base_model is right:  leviathan merge CONFIG",
    )


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    unused = ["*.bin", "*.gguf", "*.pth", "original/*", "consolidated*"]
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(name, revision=revision, local_files_only=True))
            if not _missing_weights(path):
                return path
        return Path(snapshot_download(name, revision=revision, ignore_patterns=unused))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"The base model {name} is not a folder and cannot be fetched from the hub:"
            f" {str(error).strip().splitlines()[0]}",
            "Name the model's folder as base_model in a config:  leviathan merge CONFIG",
        ) from None


def _sound(base: Path) -> Path:
    if missing := _missing_weights(base):
        raise UsageError(
            f"The base model in {base} is incomplete: {missing} is missing.", "Fetch it again."
        )
    if quantisation := read_object(base / "config.json").get("quantization_config"):
        raise UsageError(
            f"The base model in {base} is stored quantised ({quantisation.get('quant_method')}):"
            " no adapter can be added to it exactly.",
            "Name the unquantised model as base_model in a config:  leviathan merge CONFIG",
        )
    return base


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, as transformers looks for them; maybe not all there."""
    whole = folder / "model.safetensors"
    if whole.exists():
        return [whole]
    names = (read_object(folder / INDEX).get("weight_map") or {}).values()
    return sorted({folder / str(name) for name in names} or folder.glob("model*.safetensors"))


def _missing_weights(folder: Path) -> str:
    files = weight_files(folder) or [folder / "model.safetensors"]
    return next((file.name for file in files if not file.exists()), "")
