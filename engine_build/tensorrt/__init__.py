"""A checkpoint as TensorRT engines: ONNX graphs, our attention as a plugin, compiled profiles, a runtime.

`graphs` and `export` write ONNX, `lint` and `onnx_runner` check it without a GPU, `plugin` carries the Triton
kernel, `compile` builds, `manifest` says what was built from what, `runtime` runs. TensorRT itself is imported
only by `library.tensorrt`, when something needs it.
"""
