"""Resolve the kustomizations of deploy/kubernetes without the kustomize binary.

It knows exactly what those files use, and refuses anything else: resources, components, strategic merge patches by
path, images, and one namespace. A patch whose target is not among the resources is an error, as it is in kustomize.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}
CLUSTER_WIDE = {"Namespace"}

# Lists that merge by a key (`patchMergeKey` in the Kubernetes API); every other list is replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
}


def documents(path: Path) -> list[Manifest]:
    """Every YAML document of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """apiVersion, kind and name."""
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def resolve(folder: Path) -> list[Manifest]:
    """What `kustomize build folder` prints. Raises ValueError for what it does not know or cannot place."""
    spec = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(spec) - KNOWN:
        raise ValueError(f"{folder}: not known here: {sorted(unknown)}")
    found: dict[tuple[str, str, str], Manifest] = {}
    for name in spec.get("resources", []) + spec.get("components", []):
        path = folder / name
        for manifest in resolve(path) if path.is_dir() else documents(path):
            if identity(manifest) in found:
                raise ValueError(f"{path}: {identity(manifest)} is there already")
            found[identity(manifest)] = manifest
    for patch in spec.get("patches", []):
        for change in documents(folder / patch["path"]):
            if identity(change) not in found:
                raise ValueError(f"{folder / patch['path']}: patches {identity(change)}, which is nowhere")
            found[identity(change)] = merge(found[identity(change)], change)
    unused = {image["name"] for image in spec.get("images", [])} - set().union(*map(images, found.values()))
    if unused:
        raise ValueError(f"{folder}: images that nothing uses: {sorted(unused)}")
    for manifest in found.values():
        for image in spec.get("images", []):
            rename(manifest, image)
        if "namespace" in spec and manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = spec["namespace"]
    return list(found.values())


def merge(base: Any, change: Any, name: str = "") -> Any:
    """`change` laid over `base`: maps merge, lists merge by their key or are replaced."""
    if isinstance(base, dict) and isinstance(change, dict):
        merged = dict(base)
        for key, value in change.items():
            merged[key] = merge(base[key], value, key) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(change, list) and name in MERGE_KEYS:
        key = MERGE_KEYS[name]
        rows = {row[key]: row for row in base}
        for row in change:
            rows[row[key]] = merge(rows[row[key]], row) if row[key] in rows else row
        return list(rows.values())
    return change


def containers(manifest: Manifest) -> list[Manifest]:
    """The containers of a workload; none for other kinds."""
    template = manifest.get("spec", {}).get("template", {})
    return template.get("spec", {}).get("containers", []) if isinstance(template, dict) else []


def images(manifest: Manifest) -> set[str]:
    return {container["image"] for container in containers(manifest)}


def rename(manifest: Manifest, image: dict[str, str]) -> None:
    for container in containers(manifest):
        if container["image"] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"
