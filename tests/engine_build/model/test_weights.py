"""Checkpoint folders as diffusers writes them: loaded strictly, refused with the tensor's name."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file
from tiny import write_checkpoint

from engine_build.config import CheckpointConfig
from engine_build.errors import CheckpointError
from engine_build.model.weights import check, load_model, locate

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def test_a_folder_of_diffusers_loads_with_every_weight(folder: Path) -> None:
    theirs = Flux2Transformer2DModel.from_pretrained(folder / "transformer")
    model = load_model(folder)
    assert model.config.reference_attention == "joint"
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    state = model.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in theirs.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_come_in_the_dtype_asked_for(folder: Path, dtype: torch.dtype) -> None:
    exact = load_model(folder).state_dict()
    assert all(
        torch.equal(v, exact[k].to(dtype)) for k, v in load_model(folder, dtype=dtype).state_dict().items()
    )


def test_shards_equal_one_file(folder: Path, tmp_path: Path) -> None:
    sharded = write_checkpoint(tmp_path / "sharded", shard_size="300KB")
    assert not (sharded / "transformer" / FILE).exists()
    one, many = load_model(folder).state_dict(), load_model(sharded).state_dict()
    assert all(torch.equal(one[k], v) for k, v in many.items())
    index = sharded / "transformer" / f"{FILE}.index.json"
    listed = json.loads(index.read_text())
    gone = listed["weight_map"].pop("proj_out.weight")
    index.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match=r"disagree on proj_out\.weight"):
        load_model(sharded)
    listed["weight_map"]["proj_out.weight"] = "../" + gone
    index.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match="not a safetensors file beside it"):
        load_model(sharded)
    listed["weight_map"]["proj_out.weight"] = gone
    index.write_text(json.dumps(listed))
    (sharded / "transformer" / gone).unlink()
    with pytest.raises(CheckpointError, match=f"{gone} is missing"):
        load_model(sharded)


def rewrite(file: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(file)
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj_out.weight": None}, r"transformer: tensors missing proj_out\.weight$"),
        ({"surprise.weight": torch.ones(2)}, r"transformer: tensors unexpected surprise\.weight$"),
        (
            {"x_embedder.weight": torch.ones(3, 4)},
            r"misshapen x_embedder\.weight \(3, 4\) instead of \(128, 16\)",
        ),
        ({"x_embedder.weight": torch.ones(128, 16).to(torch.float8_e4m3fn)}, "unsupported dtype x_embedder"),
        (
            {"proj_out.weight": None, "surprise.weight": torch.ones(2)},
            r"missing proj_out\.weight; unexpected surprise",
        ),
    ],
)
def test_a_wrong_tensor_is_named_in_one_line(
    folder: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    rewrite(folder / "transformer" / FILE, change)
    for use in (load_model, check):
        with pytest.raises(CheckpointError, match=message) as caught:
            use(folder)
        assert "\n" not in str(caught.value)


def test_only_safetensors_are_opened(folder: Path) -> None:
    tensors = load_file(folder / "transformer" / FILE)
    (folder / "transformer" / FILE).unlink()
    with pytest.raises(CheckpointError, match=f"{FILE} is missing"):
        load_model(folder)
    torch.save(tensors, folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds only diffusion_pytorch_model\.bin, a pickle"):
        load_model(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    file = folder / "transformer" / FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_model(folder)


def test_check_reports_what_the_checkpoint_is(folder: Path) -> None:
    report = check(folder)
    theirs = Flux2Transformer2DModel.from_pretrained(folder / "transformer")
    assert report.parts[0].parameters == sum(p.numel() for p in theirs.parameters())
    assert report.parts[0].dtypes == ("F32",)
    text = str(report)
    assert "2 double + 3 single blocks, width 128, 4 heads; joint reference attention" in text
    assert "every tensor is there" in text


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_check_covers_the_other_parts(folder: Path, part: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    name = sorted(load_file(file))[-1]
    rewrite(file, {name: None})
    with pytest.raises(CheckpointError, match=f"{part}: tensors missing {name}"):
        check(folder)
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"has no folder {part}"):
        check(folder)


def test_another_architecture_is_refused(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(CheckpointError, match="is a FluxTransformer2DModel"):
        load_model(folder)
    path.write_text(json.dumps({**config, "novelty": 1}))
    with pytest.raises(CheckpointError, match="unknown fields: novelty"):
        load_model(folder)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_model(folder)


def test_reference_attention_follows_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    kv = write_checkpoint(tmp_path / "kv", kv=True)
    assert load_model(kv).config.reference_attention == "shared"
    CheckpointConfig(reference_attention="isolated", max_references=7).save(folder)
    assert load_model(folder).config.reference_attention == "isolated"
    assert load_model(folder, reference_attention="joint").config.reference_attention == "joint"


def test_changeroom_json_round_trips_and_is_checked(folder: Path) -> None:
    config = CheckpointConfig(
        "isolated", max_references=7, default_size=(192, 256), text_layers=(2,), pad_text=False
    )
    config.save(folder)
    assert CheckpointConfig.load(folder) == config
    path = folder / "changeroom.json"
    good = json.loads(path.read_text())
    for change, message in (
        ({"novelty": 1}, "unknown fields: novelty"),
        ({"reference_attention": "all"}, "must be one of joint, shared, isolated"),
        ({"max_references": 0}, "max_references must be a positive integer"),
        ({"default_steps": True}, "default_steps must be a positive integer"),
        ({"default_size": [768]}, r"default_size must be \[width, height\]"),
        ({"default_size": "768x1024"}, "default_size must be a list of integers"),
        ({"pad_text": "yes"}, "pad_text must be true or false"),
        ({"text_layers": []}, "text_layers must name at least one"),
        ({"garment_canvas": [0, 4]}, r"garment_canvas must be \[width, height\]"),
        ({"note": 3}, "note must be text"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(CheckpointError, match=message):
            CheckpointConfig.load(folder)


def test_what_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path / "nothing"), "a/b/c", "../up", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
            locate(name)


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub of one repository, `someone/klein`, that serves the folder, and the paths it was asked for."""
    (folder / "transformer" / "extra.bin").write_bytes(b"pickle")
    (folder / "run_me.py").write_text("raise SystemExit")
    (folder / "whole-model.safetensors").write_bytes(b"large")
    commit, asked = "0" * 40, []
    prefix = f"/someone/klein/resolve/{commit}/"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/api/models/someone/klein/tree/"):
                entries = [p for p in folder.rglob("*") if p.is_file()]
                tree = [
                    {"type": "file", "path": str(p.relative_to(folder)), "size": 1, "oid": "0"}
                    for p in entries
                ]
                content = json.dumps(tree).encode()
            elif path.startswith("/api/models/someone/klein"):
                files = [{"rfilename": str(p.relative_to(folder))} for p in folder.rglob("*") if p.is_file()]
                content = json.dumps({"id": "someone/klein", "sha": commit, "siblings": files}).encode()
            elif path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                asked.append(path.removeprefix(prefix))
                content = (folder / path.removeprefix(prefix)).read_bytes()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{path.replace("/", "-")}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are kept in `asked`, not printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_downloaded_once_and_only_what_is_safe(
    hub: tuple[str, list[str]], folder: Path, tmp_path: Path
) -> None:
    endpoint, asked = hub
    path = locate("someone/klein", cache=tmp_path / "cache", endpoint=endpoint)
    assert all(
        torch.equal(v, load_model(folder).state_dict()[k]) for k, v in load_model(path).state_dict().items()
    )
    assert check(path).parameters == check(folder).parameters
    assert {Path(name).suffix for name in asked} <= {".json", ".safetensors", ".txt", ".jinja"}
    assert "whole-model.safetensors" not in asked
    before = len(asked)
    assert locate("someone/klein", cache=tmp_path / "cache", endpoint=endpoint) == path
    assert len(asked) == before


def test_a_failed_download_is_one_clear_error(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    with pytest.raises(CheckpointError, match="someone/else cannot be downloaded") as caught:
        locate("someone/else", cache=tmp_path / "cache", endpoint=endpoint)
    assert "\n" not in str(caught.value)
