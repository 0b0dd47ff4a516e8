"""A checkpoint as TensorRT engines: ONNX graphs, our attention as a plugin, compiled profiles, a runtime.

In comes a checkpoint's folder: `graphs` and `export` write ONNX, `lint` and `onnx_runner` check it without a GPU,
`plugin` carries the Triton kernel, `compile` builds. Out come plans with a `manifest` of what was built from what, and
`backend.load`, an engine whose networks `runtime` runs. TensorRT itself is imported only inside
functions, of `library` and `plugin`.
"""
