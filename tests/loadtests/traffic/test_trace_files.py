"""Recorded traffic: our own CSV and the public GenAI trace, with rows made here in the same columns."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from loadtests.traffic.arrivals import from_trace
from loadtests.traffic.trace_files import Recorded, TraceError, read_trace

GENAI_HEADER = (
    "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,prompt_length,negative_prompt_length,"
    "num_images_per_prompt,num_inference_steps,checkpoint_model_version_id,num_lora"
)
GENAI = f"""{GENAI_HEADER}
2025-03-01 23:59:58,TXT_2_IMG,SUCCEED,12.0,G1,40.0,20.0,4.0,30.0,M1,0
2025-03-01 23:59:50,IMG_2_IMG,SUCCEED,31.0,G1,40.0,,1.0,30.0,M1,2
2025-03-02 00:00:10,TXT_2_IMG,FAILED,3.0,G2,7.0,20.0,8.0,25.0,M2,0
2025-03-02 00:00:10,INPAINTING,SUCCEED,,G2,7.0,20.0,,25.0,M2,0
"""
GENAI_ROWS = [
    Recorded(0.0, images=1, service_s=31.0),
    Recorded(8.0, images=4, service_s=12.0),
    Recorded(20.0, images=8, service_s=3.0),
    Recorded(20.0),
]


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_our_own_columns_in_any_order(tmp_path: Path) -> None:
    text = "service_s,offset_s,images,note,priority,garments,size\n17,6,1,x,,,\n,2.5,,y,high,4,768x1024\n\n"
    assert read_trace(write(tmp_path, text)) == [
        Recorded(2.5, garments=4, priority="high", size="768x1024"),
        Recorded(6.0, images=1, service_s=17.0),
    ]


def test_the_derived_day_of_three_columns(tmp_path: Path) -> None:
    rows = read_trace(write(tmp_path, "offset_s,images,service_s\n6,1,17\n9,8,17\n10,2,16\n"))
    assert [(row.offset_s, row.images, row.service_s) for row in rows] == [(6, 1, 17), (9, 8, 17), (10, 2, 16)]
    assert [one.garments for one in from_trace(rows, 0)] == [1, 6, 2]


def test_the_public_genai_trace_counts_from_its_first_request(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, GENAI)) == GENAI_ROWS


def test_a_byte_order_mark_and_dos_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GENAI.replace("\n", "\r\n").encode())
    assert read_trace(path) == GENAI_ROWS


def test_gzip_and_the_archive_as_downloaded(tmp_path: Path) -> None:
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(GENAI.encode()))
    assert read_trace(packed) == GENAI_ROWS
    archive = tmp_path / "lora_request_trace.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (
            ("._lora_request_trace.csv", GENAI.replace("2025", "1999")),
            ("qps.csv", "timestamp_anon,value,container_ip,request_type\n1,2,3,4\n"),
            ("data/lora_request_trace.csv", GENAI),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    assert read_trace(archive) == GENAI_ROWS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither offset_s nor gmt_create"),
        ("timestamp_anon,value\n1,2\n", "lora_request_trace.csv"),
        ("offset_s\n", "no requests"),
        ("offset_s\nsoon\n", "line 2"),
        ("offset_s,images\n1,1\n2,0\n", "line 3.*images"),
        ("offset_s,images\n1,1.5\n", "images"),
        ("offset_s\n-1\n", "line 2"),
        ("offset_s\nnan\n", "line 2"),
        ("offset_s,priority\n1,urgent\n", "urgent"),
        (f"{GENAI_HEADER}\nyesterday,T,S,1,G,1,1,1,1,M,0\n", "line 2"),
    ],
)
def test_a_broken_trace_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        read_trace(write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.csv"
    path.write_bytes(b"offset_s\n\xff\xd8\xff\n")
    with pytest.raises(TraceError, match="not a CSV file"):
        read_trace(path)
    path.write_bytes(gzip.compress(GENAI.encode())[:60])
    with pytest.raises(TraceError, match="not a CSV file"):
        read_trace(path)
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "absent.csv")


def test_an_archive_without_a_fitting_table(tmp_path: Path) -> None:
    archive = tmp_path / "other.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty.csv"), io.BytesIO(b""))
    with pytest.raises(TraceError, match="in this archive"):
        read_trace(archive)


def test_the_bundled_sample_is_a_trace() -> None:
    sample = Path(__file__).parents[3] / "loadtests" / "traces" / "synthetic-sale-evening.csv"
    rows = read_trace(sample)
    assert len(rows) > 500
    assert all(row.garments is not None and 1 <= row.garments <= 6 for row in rows)
