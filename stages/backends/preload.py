"""What most stages import, for a process that waits for them; `python -m` prints its resident bytes."""

import contextlib
import gc
from pathlib import Path

from stages.backends.tokenizer import quickly

CAN_FORK = True
"""Whether a fork of this process can do all that a new one could: CUDA cannot be used in a fork."""

with quickly(), contextlib.suppress(ImportError):  # the stage that needs it will say so
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.modeling_utils
    import transformers.models.auto.modeling_auto  # noqa: F401

    import stages.backends.evaluate.measure  # noqa: F401

    CAN_FORK = not torch.cuda.is_available()

gc.freeze()  # forks share this memory as long as their collections do not touch it

if __name__ == "__main__":
    print(int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024)
