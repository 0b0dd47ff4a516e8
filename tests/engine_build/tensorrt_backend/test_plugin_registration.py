"""Our plugins and every TensorRT name we use, against TensorRT's own Python bindings, without its libraries.

The bindings' wheel is small and installs anywhere (pip install tensorrt-cu12-bindings); the libraries they link to
are stood in for by empty ones, which is enough for everything that is checked in Python.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engine_build.tensorrt as package

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_bindings") is None, reason="needs pip install tensorrt-cu12-bindings"
    ),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
OBJECTS = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "made": "IOptimizationProfile", "context": "IExecutionContext", "engine": "ICudaEngine", "_runtime": "Runtime",
}  # fmt: skip
EXPRESSIONS = """
import json, sys
import tensorrt as trt
from engine_build.tensorrt.plugin import register_plugins
register_plugins(lazy=True)
from tensorrt_bindings.plugin._lib import QDP_REGISTRY
from tensorrt_bindings.plugin._tensor import Shape, ShapeExpr, ShapeExprs, SymIntExpr, TensorDesc

class Expression:
    def __init__(self, tree): self.tree = tree

class Builder:
    def constant(self, value): return Expression(value)
    def operation(self, kind, a, b):
        return a if kind.name == "SUM" and b.tree == 0 else Expression([kind.name, a.tree, b.tree])

trt.IDimensionExpr = Expression
SymIntExpr._exprBuilder = Builder()

def tensor(dtype, *sizes):
    desc = TensorDesc()
    desc.dtype, shape = dtype, ShapeExprs(len(sizes))
    for i, size in enumerate(sizes):
        shape[i] = ShapeExpr(Expression(size))
    desc.shape_expr = shape
    return desc, Shape(tuple(size if isinstance(size, int) else -1 for size in sizes))

q, p = tensor(trt.bfloat16, "T", 24, 128), tensor(trt.bfloat16, "P", 24, 128)
cu, groups, tiles = tensor(trt.int32, "N1"), tensor(trt.int32, "M1"), tensor(trt.int32, "G", 2)
found = {}
for name, inputs in (("packed", (q, q, q, cu, cu, tiles)), ("prefixed", (q, q, q, p, p, cu, cu, groups, tiles))):
    plugin = QDP_REGISTRY[f"changeroom::{name}_attention"]
    descs = [desc for desc, _ in inputs]
    outputs = (plugin.register_func(*descs),)
    for desc, shape in inputs:
        desc._shape = shape
    kernel, ptx, launch, scalars = plugin.aot_impl_func(*descs, outputs, 0)
    combinations = plugin.autotune_func(*descs, outputs)[0]._get_combinations()
    found[name] = {
        "inputs": plugin.input_tensor_names, "kernel": kernel.decode(), "entry": kernel.decode() in ptx.decode(),
        "output": [axis._expr.tree for axis in outputs[0].shape_expr],
        "grid": [x._expr.tree for x in (launch.grid_x, launch.grid_y, launch.grid_z)],
        "block": launch.block_x._expr.tree, "scalars": [x._expr.tree for x in scalars],
        "dtypes": [[t.name for t in c.types] for c in combinations],
        "jit": plugin.impl_func is not None,
    }
    for desc, _ in inputs:
        desc._shape = None
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where `import tensorrt` gives the bindings over empty libraries."""
    home = tmp_path_factory.mktemp("tensorrt")
    source = home / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    bindings = Path(str(importlib.util.find_spec("tensorrt_bindings").submodule_search_locations[0]))  # type: ignore
    major = next(bindings.parent.glob("tensorrt_cu1*_bindings-*.dist-info")).name.split("-")[1].partition(".")[0]
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", home / library, source]
        subprocess.run(command, check=True)
    for module, of in (("tensorrt", "tensorrt_bindings"), ("tensorrt/plugin", "tensorrt_bindings.plugin")):
        (home / module).mkdir()
        (home / module / "__init__.py").write_text(f"from {of} import *\n")
    with (home / "tensorrt" / "__init__.py").open("a") as file:
        file.write("from tensorrt_bindings import __version__\n")
    return {**os.environ, "LD_LIBRARY_PATH": str(home), "PYTHONPATH": os.pathsep.join([str(home), str(Path.cwd())])}


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tensorrt_accepts_the_plugins(environment: dict[str, str]) -> None:
    pytest.importorskip("triton")
    found = json.loads(run(EXPRESSIONS, environment).splitlines()[-1])
    packed, prefixed = found["packed"], found["prefixed"]
    assert packed["inputs"] == ["q", "k", "v", "cu_seqlens", "key_cu", "tiles"]
    assert prefixed["inputs"] == ["q", "k", "v", "prefix_k", "prefix_v", "cu_seqlens", "key_cu", "prefix_cu", "tiles"]
    for plugin in (packed, prefixed):
        assert plugin["output"] == ["T", 24, 128]
        assert plugin["grid"] == ["G", 24, 1]
        assert plugin["block"] == 256
        assert plugin["entry"]
        assert plugin["jit"]
        tables = len([name for name in plugin["inputs"] if name in ("cu_seqlens", "key_cu", "prefix_cu", "tiles")])
        floats = len(plugin["inputs"]) - tables
        for dtype in ("BF16", "HALF", "FLOAT"):
            assert [dtype] * floats + ["INT32"] * tables + [dtype] in plugin["dtypes"]
    assert packed["scalars"] == []
    assert prefixed["scalars"] == [["FLOOR_DIV", ["SUB", "N1", 1], ["SUB", "M1", 1]]]


def test_every_name_of_tensorrt_that_we_use_exists(environment: dict[str, str]) -> None:
    """Walks our source for `trt.A.B` and for methods of TensorRT's objects, and looks each up."""
    wanted: set[str] = set()
    for file in ("compile.py", "runtime.py"):
        for node in ast.walk(ast.parse((Path(package.__file__).parent / file).read_text(encoding="utf-8"))):
            chain = dotted(node) if isinstance(node, ast.Attribute) else None
            if chain is None:
                continue
            owner, _, rest = chain.removeprefix("self.").removeprefix("loaded.").partition(".")
            if owner in ("trt", "_trt") and rest:
                wanted.add(rest)
            elif owner in OBJECTS and rest:
                wanted.add(f"{OBJECTS[owner]}.{rest.partition('.')[0]}")
    assert {"Builder.create_network", "IExecutionContext.execute_async_v3", "BuilderFlag.REFIT"} <= wanted
    code = (
        f"import functools, tensorrt as trt\nfor n in {sorted(wanted)!r}: functools.reduce(getattr, n.split('.'), trt)"
    )
    run(code, environment)


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text, or None when it starts from anything but a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None
