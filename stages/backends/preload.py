"""What most stages import, for a process that waits for them."""

import contextlib

CAN_FORK = True
"""Whether a fork of this process can do all that a new one could: CUDA cannot be used in a fork."""

with contextlib.suppress(ImportError):  # the stage that needs it will say so
    import bitsandbytes  # noqa: F401
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401

    import stages.backends.evaluate.measure  # noqa: F401

    CAN_FORK = not torch.cuda.is_available()
