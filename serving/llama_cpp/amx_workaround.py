"""Keep llama.cpp off Intel's AMX tiles, where a common compiler breaks them.

GCC 12's `_tile_loadconfig` tells the optimizer that it reads 8 of the 64 bytes of a tile configuration,
so ggml's `ggml_tile_config_init` loses the other stores and the first matrix product of a quantized model
dies on `ldtilecfg` (seen with llama-cpp-python 0.3.36 built by GCC 12.2 on a CPU with `amx_int8`).
Nothing at run time tells a good build from a broken one, so no build with AMX in it uses it. To have both
AMX's absence and the other repacked kernels, build llama-cpp-python with
`CXXFLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"`; then this does nothing.
"""

from __future__ import annotations


def avoid_amx() -> bool:
    """Load models into plain buffers from now on, if this build of llama.cpp holds AMX kernels.

    Call it before any model is loaded, through `llama_cpp.Llama` or `llama_model_load_from_file`. Returns
    whether it had to change anything; it costs the repacked kernels too, which have the same switch.
    """
    import llama_cpp
    from llama_cpp import llama_cpp as low

    if b"AMX_INT8 = 1" not in low.llama_print_system_info():
        return False
    if hasattr(low.llama_model_default_params, "stock"):
        return True
    stock = low.llama_model_default_params

    def plain_buffers() -> object:
        params = stock()
        params.use_extra_bufts = False
        return params

    plain_buffers.stock = stock  # type: ignore[attr-defined]
    # Two names for one function: llama_cpp.Llama calls the first, a user of the bare API the second.
    low.llama_model_default_params = plain_buffers
    llama_cpp.llama_model_default_params = plain_buffers
    return True
