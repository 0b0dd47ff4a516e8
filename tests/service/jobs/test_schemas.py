"""What crosses the queue: facts of the engine are told once, new fields only when they say something."""

from __future__ import annotations

from dataclasses import fields

from engine_build.engine import EngineInfo
from service.gateway.shapes.model_views import ModelView
from service.jobs.schemas import EngineFacts, GarmentRecord, GarmentRef, JobSpec, PictureWarning, WorkerInfo


def test_workers_and_callers_hear_every_fact_of_the_engine() -> None:
    facts = {field.name for field in fields(EngineInfo)}
    assert set(WorkerInfo.model_fields) - {"id", "activity"} == facts
    assert set(EngineFacts.model_fields) == facts - {"model", "default_size"}  # callers read these in another shape
    assert set(EngineFacts.model_fields) | {"id", "default_size"} <= set(ModelView.model_fields)


def test_what_older_workers_do_not_know_is_left_out_while_there_is_nothing_to_say() -> None:
    spec = JobSpec(
        id="a",
        person="input/x",
        garments=(GarmentRef(blob="input/y"),),
        instruction="i",
        instruction_by="grammar",
        seed=1,
        created_at=0,
        deadline_at=1,
        tokens=1,
    )
    assert "warnings" not in spec.model_dump_json()
    warned = spec.model_copy(update={"warnings": (PictureWarning(pointer="person", detail="cut"),)})
    assert JobSpec.model_validate_json(warned.model_dump_json()) == warned
    garment = GarmentRecord(sku="a", blob="b", content_type="image/png", width=1, height=1, created_at=0)
    assert "warning" not in garment.model_dump_json()
