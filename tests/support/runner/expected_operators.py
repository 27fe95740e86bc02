"""Names of the kernels that the engine launches on a card.

An operator that nobody expected may make the host wait for the device, or be slow there. Whoever
adds one looks at what it costs.
"""

EXPECTED_OPERATORS = frozenset(
    {
        "_adaptive_avg_pool2d", "_safe_softmax", "_to_copy", "add", "add_", "addmm", "addmm_",
        "arange", "argmax", "baddbmm_", "bmm",
        "cat", "clamp", "clone", "constant_pad_nd", "convolution", "copy_", "cos", "div",
        "embedding", "exp", "gelu", "index", "index_copy_", "mean", "mm", "mul", "mul_",
        "native_group_norm", "native_layer_norm", "new_zeros", "relu", "round",
        "scaled_dot_product_attention", "sigmoid", "silu", "sin", "stack", "sub", "sum", "tanh",
        "upsample_nearest2d", "zeros",
    }
)  # fmt: skip
