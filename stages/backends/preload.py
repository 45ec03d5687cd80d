"""What most stages import, for a process that waits for them; `python -m` prints its resident bytes."""

import contextlib
import gc
import sys
from pathlib import Path
from typing import Any, cast

CAN_FORK = True
"""Whether a fork of this process can do all that a new one could: CUDA cannot be used in a fork."""

gc.disable()  # imports make no garbage, and looking for some takes a fifth of their time
# transformers imports scikit-learn for assisted generation alone, and that takes half as long as torch.
cast(Any, sys.modules)["sklearn"] = None

with contextlib.suppress(ImportError):  # the stage that needs it will say so
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.modeling_utils
    import transformers.models.auto.modeling_auto  # noqa: F401

    import stages.backends.evaluate.measure  # noqa: F401

    CAN_FORK = not torch.cuda.is_available()

del sys.modules["sklearn"]  # a task of lm-eval may need it
gc.enable()
gc.freeze()  # forks share this memory as long as their collections do not touch it

if __name__ == "__main__":
    print(int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024)
