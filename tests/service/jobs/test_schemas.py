"""Facts of the engine that several documents tell are told once."""

from __future__ import annotations

from dataclasses import fields

from engine_build.engine import EngineInfo
from service.gateway.shapes.model_views import ModelView
from service.jobs.schemas import EngineFacts, WorkerInfo


def test_workers_and_callers_hear_every_fact_of_the_engine() -> None:
    facts = {field.name for field in fields(EngineInfo)}
    assert set(WorkerInfo.model_fields) - {"id", "activity"} == facts
    assert set(EngineFacts.model_fields) == facts - {"model", "default_size"}  # callers read these in another shape
    assert set(EngineFacts.model_fields) | {"id", "default_size"} <= set(ModelView.model_fields)
