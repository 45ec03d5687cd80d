"""What most stages import, for a process that waits for one."""

import contextlib

with contextlib.suppress(ImportError):  # the stage that needs it will say so
    import bitsandbytes  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    import stages.backends.evaluate.measure  # noqa: F401
