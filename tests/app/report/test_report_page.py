"""What stands on the page of a run, and how large the page of a large run is."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from subbyte.app.report.page.objects import RECALLS, precision
from subbyte.app.report.page.pictures import Album, galleries
from subbyte.app.report.page.reading import Entry
from subbyte.app.report.page.rendering import page
from subbyte.app.report.page.words import number, points

if TYPE_CHECKING:
    from ..conftest import Run

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def made_up() -> ModuleType:
    """benchmarks/report.py, which makes up runs."""
    path = Path(__file__).parents[3] / "benchmarks" / "report.py"
    spec = importlib.util.spec_from_file_location("made_up_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_up_report"] = module
    spec.loader.exec_module(module)
    return module


def data_of(text: str) -> dict[str, Any]:
    """The data that a page's charts are drawn from."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def cells(text: str, table: str) -> list[list[str]]:
    """The texts of a table's cells, by its id."""
    (body,) = re.findall(rf'id="{table}">.*?<tbody>(.*?)</tbody>', text, re.S)
    rows = re.findall(r"<tr.*?</tr>", body, re.S)
    plain = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub("<.*?>", " ", c)).strip() for c in row] for row in plain]


def test_the_answer_has_what_was_measured_the_float_model_first(digits: Run) -> None:
    text = page([digits.folder])
    rows = cells(text, "answer-table")
    assert [row[0].split()[0] for row in rows] == ["float"] * 3 + ["w8a8"] * 3 + ["w4a4"] * 3
    entry = digits.entry("w4a4")
    onnxruntime = entry["deployed"]["onnxruntime"]
    own = rows[7]
    assert own[1] == "onnxruntime"
    assert own[2].split()[0] == f"{100 * onnxruntime['metrics']['top1']:.2f}"
    change = onnxruntime["metrics"]["top1"] - digits.entry("float")["metrics"]["top1"]
    assert float(own[3].split()[0].replace("−", "-")) == pytest.approx(100 * change, abs=0.006)
    low, high = onnxruntime["against_float"]["interval"]
    assert low <= change <= high
    assert own[6] == f"{100 * onnxruntime['agreement']:.2f}"


def test_the_trade_off_has_each_variant_in_each_place(digits: Run) -> None:
    found = {(p["variant"], p["where"]): p for p in data_of(page([digits.folder]))["tradeoff"]}
    assert len(found) == 9
    entry = digits.entry("w8a8")
    point = found["w8a8", "openvino"]
    assert point["size"] == entry["size_bytes"] / 1000
    assert point["latency"] == pytest.approx(entry["deployed"]["openvino"]["latency_ms"], rel=1e-3)


def test_the_changes_of_classes_add_up_to_that_of_the_metric(digits: Run) -> None:
    text = page([digits.folder])
    panel = text[text.index('<section id="classes">') :]
    variant = panel[panel.index("<h3>w4a4</h3>") :]
    body = variant[variant.index("<tbody>") : variant.index("</tbody>")]
    values = [
        [float(v) for v in re.findall(r'data-v="([^"]+)"', r)] for r in body.split("<tr>")[1:]
    ]
    images = sum(row[0] for row in values)
    assert images == digits.results["evaluation_images"]
    deployed = digits.entry("w4a4")["deployed"]["onnxruntime"]
    total = sum(row[0] * row[3] for row in values) / images
    assert total == pytest.approx(deployed["against_float"]["change"], abs=1e-9)


def test_names_with_html_in_them_are_escaped(digits: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits.folder, tmp_path / "run"))
    (folder / "float/classes.json").write_text(json.dumps([HOSTILE] * 10))
    results = json.loads((folder / "results.json").read_text())
    results |= {"model": HOSTILE, "notes": [HOSTILE]}
    (folder / "results.json").write_text(json.dumps(results))
    variant = json.loads((folder / "variants/w4a4/variant.json").read_text())
    variant["blocks"] = [{"block": HOSTILE, "fell_back": True, "why": HOSTILE, "seconds": 1}]
    (folder / "variants/w4a4/variant.json").write_text(json.dumps(variant))
    diagnosis = {"layers": [{"layer": HOSTILE, "kind": HOSTILE}], "advice": []}
    (folder / "variants/w4a4/diagnosis.json").write_text(json.dumps(diagnosis))
    text = page([folder])
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert text.count("</script>") == 3
    assert data_of(text)["layers"][1]["layers"][0]["name"] == HOSTILE


def test_layers_are_shown_in_network_order_with_advice(
    digits: Run, tmp_path: Path, made_up: ModuleType
) -> None:
    folder = Path(shutil.copytree(digits.folder, tmp_path / "run"))
    names = ["conv1", "block1.conv1", "block1.add", "linear"]
    found = made_up.diagnosis(names, (4, 4))
    (folder / "variants/w4a4/diagnosis.json").write_text(json.dumps(found))
    (folder / "variants/w8a8/diagnosis.json").unlink()
    text = page([folder])
    drawn = data_of(text)["layers"]
    assert drawn[0] == {}
    assert [layer["name"] for layer in drawn[1]["layers"]] == names
    assert html.escape(found["advice"][0]["overrides"], quote=False) in text.replace("&#39;", "'")
    shown = drawn[1]["layers"][0]["activations"][0]["histogram"]["counts"]
    assert shown == found["layers"][0]["activations"][0]["histogram"]["counts"]


def test_the_page_begins_with_the_variant_that_agrees_least(digits: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits.folder, tmp_path / "run"))
    file = folder / "variants/w8a8/variant.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "agreement_with_float": 0.0}))
    shown = re.findall(r"<option[^>]* selected>(.*?)</option>", page([folder]))
    assert set(shown) == {"w8a8"}


def test_precision_at_each_recall_is_as_worked_out_by_hand() -> None:
    """Class 1: right, wrong, right of 2 objects. Class 2: one of 4 objects, found at once."""
    matched = {
        "labels": np.array([1, 1, 1, 2, 1], np.int32),
        "scores": np.array([0.5, 0.9, 0.7, 0.8, 0.95], np.float32),
        "found": np.array([1, 1, 0, 3, 0], np.uint16),
        "set_aside": np.array([0, 0, 0, 0, 1], np.uint16),  # the surest one falls on a crowd
        "object_labels": np.array([1, 1, 2, 2, 2, 2], np.int32),
    }
    first = np.where(RECALLS <= 0.5, 1, 2 / 3)
    second = np.where(RECALLS <= 0.25, 1, 0)
    assert precision(matched, 0) == pytest.approx((first + second) / 2)
    assert precision(matched, 1) == pytest.approx(second / 2)


def test_pictures_are_kept_once_and_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "gallery").mkdir(parents=True)
        pictures = []
        for i in range(3):
            own = bytes([i]) * 300 if i < 2 else name.encode() * 300
            (tmp_path / name / f"gallery/{i}.jpg").write_bytes(own)
            said = {"label": 0, "float": [1, 0.5], "quantized": [0, 0.5], "name": "x"}
            size = {"width": 9, "height": 9, "image": i, "file": f"gallery/{i}.jpg"}
            pictures.append({**said, **size})
        known = {"kind": "answers", "images": 5, "found": 3, "pictures": pictures}
        (tmp_path / name / "gallery.json").write_text(json.dumps(known))
    entries = [(Entry(name, tmp_path / name, {}), ["cat", "dog"]) for name in ("a", "b")]
    album = Album(3 * 450)
    first, second = galleries(entries, album)
    assert first is not None
    assert second is not None
    assert [len(first.cards), len(second.cards)] == [3, 2]
    assert len(album.uris) == 3
    assert first.cards[0].key == second.cards[0].key
    said = [("float", "dog, 50 %", False), ("quantized", "cat, 50 %", True)]
    assert first.cards[0].lines[1:] == said


def test_numbers_are_written_as_tables_have_them() -> None:
    assert [points(x) for x in (-0.00314, 0.0, 0.00001, None)] == ["−0.31", "0.00", "0.00", "–"]
    assert [number(x) for x in (0.03327, 12345.6, 1.34e-5, float("nan"))] == [
        "0.0333", "12346", "1.34e-05", "–",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_of_a_large_run_is_small_and_soon_made(
    tmp_path: Path, made_up: ModuleType
) -> None:
    made_up.make_run(tmp_path / "run")
    text = page([tmp_path / "run"])
    assert len(text.encode()) < 6_000_000
    assert text.count("<figure>") == sum(
        len(json.loads(file.read_text())["pictures"])
        for file in (tmp_path / "run").glob("variants/*/gallery.json")
    )
