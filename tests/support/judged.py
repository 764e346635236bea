"""What Axolotl's own validation says of one value each, in a process of its own.

    python judged.py < [[key, value], ...]

prints, for each, whether it is refused for this key. The rest of the config is as small as
Axolotl takes it. Values that JSON cannot hold are not asked about.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from typing import Any

BASE: dict[str, Any] = {
    "base_model": "none",
    "learning_rate": 0.001,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "datasets": [{"path": "none", "type": "alpaca"}],
}


def refusal(key: str, value: Any) -> str | None:
    """Why Axolotl refuses the value; None if it does not, or for another reason."""
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from pydantic import ValidationError

    values = BASE | {key: value}
    try:
        validate_config(DictDefault(json.loads(json.dumps(values))))
    except ValidationError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    logging.disable(logging.CRITICAL)
    from axolotl.utils import config

    # 0.21 builds its models anew for each validation, 0.4 s, from plugins that stay the same.
    config.merge_input_args = functools.cache(config.merge_input_args)
    asked = json.load(sys.stdin)
    with answer:
        json.dump([refusal(key, value) for key, value in asked], answer)


if __name__ == "__main__":
    main()
