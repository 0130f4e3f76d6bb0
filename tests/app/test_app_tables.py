from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from subbyte.app.report.tables import run_table, write_layers
from subbyte.placement.placement import PlacedLayer


def measured(top1: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"metrics": {"top1": top1}, "intervals": {"top1": [low, high]}, **more}


def deployed(latency: float, done: int, of: int, agreement: float) -> dict[str, Any]:
    facts = {"latency_ms": latency, "latency_batch": 1, "latency_threads": 2}
    counts = {"int8_ops": done, "int8_candidates": of}
    return measured(0.5, 0.25, 0.75, agreement=agreement, **facts, **counts)


def results(**changes: Any) -> dict[str, Any]:
    runs = {"onnxruntime": deployed(1.23456, 9, 12, 0.995), "openvino": deployed(75, 12, 12, 1.0)}
    variant = {"name": "w4a8", "size_bytes": 92_988, "packed_bytes": 54_844, "deployed": runs}
    variant |= {"agreement_with_float": 0.98765, "sqnr_db": 21.44}
    base = {
        "experiment": "shoes",
        "model": "resnet18",
        "task": "classification",
        "primary_metric": "top1",
        "evaluation_images": 500,
        "calibration_images": 64,
        "seed": 7,
        "notes": ["3 of the 64 calibration images are evaluated too"],
        "float": measured(
            1, 0.9, 1, size_bytes=313_513, deployed={"onnxruntime": runs["openvino"]}
        ),
        "variants": [{**measured(0.98764, 0.9449, 0.9982), **variant}],
    }
    return {**base, **changes}


def rendered(value: dict[str, Any]) -> list[str]:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(run_table(value))
    return console.export_text().splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [[c.strip() for c in line.strip("│").split("│")] for line in lines if line[0] == "│"]


def test_every_measurement_has_its_row() -> None:
    rows = cells(rendered(results()))
    assert rows == [
        ["float", "simulation", "100.00", "90.0–100.0", "–", "–", "", "", "314"],
        ["", "onnxruntime", "50.00", "25.0–75.0", "100.00", "", "12 of 12", "75", ""],
        ["w4a8", "simulation", "98.76", "94.5–99.8", "98.77", "21.4", "", "", "93 (55)"],
        ["", "onnxruntime", "50.00", "25.0–75.0", "99.50", "", "9 of 12", "1.23", ""],
        ["", "openvino", "50.00", "25.0–75.0", "100.00", "", "12 of 12", "75", ""],
    ]


def test_title_and_caption_say_what_was_measured_how() -> None:
    lines = [line.strip() for line in rendered(results())]
    assert lines[0] == "shoes: resnet18, 500 evaluation and 64 calibration images, seed 7"
    assert "ms: median latency at batch 1 on 2 threads" in lines
    assert lines[-1] == "note: 3 of the 64 calibration images are evaluated too"


def test_a_simulation_on_some_of_the_images_is_reported() -> None:
    few = rendered(results(simulation_images=200))
    said = "simulation, and what is compared with it: on 200 of the images"
    assert said in [line.strip() for line in few]
    assert not any("of the images" in line for line in rendered(results(simulation_images=500)))


def detected(**more: Any) -> dict[str, Any]:
    return {"metrics": {"AP": 0.5, "AP50": 0.75}, "intervals": {}, **more}


def test_a_detectors_columns_are_its_own() -> None:
    speed = {"latency_ms": 20.0, "latency_raw_ms": 15.0, "latency_batch": 1, "latency_threads": 2}
    runtime = detected(agreement=0.9, int8_ops=3, int8_candidates=4, **speed)
    objects = {"lost": 0.125, "gained": 0.0625}
    variant = {"name": "w4a8", "size_bytes": 1000, "deployed": {"openvino": runtime}}
    variant |= detected(agreement_with_float=0.8, sqnr_db=32.0, sqnr_db_worst=12.0, objects=objects)
    model = detected(size_bytes=4000, deployed={"openvino": runtime})
    lines = rendered(
        results(task="detection", primary_metric="AP", float=model, variants=[variant])
    )
    assert cells(lines) == [
        ["float", "simulation", "50.00", "75.00", "–", "–", "–", "", "", "4"],
        ["", "openvino", "50.00", "75.00", "90.00", "", "", "3 of 4", "20 (15)", ""],
        ["w4a8", "simulation", "50.00", "75.00", "80.00", "12.5/6.2", "12.0", "", "", "1"],
        ["", "openvino", "50.00", "75.00", "90.00", "", "", "3 of 4", "20 (15)", ""],
    ]
    assert any("raw: without post-processing" in line for line in lines)


def test_a_run_without_runtimes_or_errors_has_nothing_to_tell_of_them() -> None:
    float_ = measured(1, 0.9, 1, size_bytes=2000, deployed={})
    exact = {"name": "w8a8", "size_bytes": 1000, "packed_bytes": 1000, "deployed": {}}
    exact |= measured(1, 0.9, 1, agreement_with_float=1.0, sqnr_db=None)
    lines = rendered(results(float=float_, variants=[exact], notes=[]))
    assert cells(lines) == [
        ["float", "simulation", "100.00", "90.0–100.0", "–", "–", "", "", "2"],
        ["w8a8", "simulation", "100.00", "90.0–100.0", "100.00", "–", "", "", "1"],
    ]
    assert not any("latency" in line or "note" in line for line in lines)


def test_layers_csv_holds_tensors_and_what_stayed_in_float(tmp_path: Path) -> None:
    shared = {"bits": 4, "symmetric": False, "per_channel": True, "sqnr_db": 20.5}
    row = {"layer": "conv1", "role": "weight", **shared, "scale": [0.5, 0.25], "zero_point": [7, 8]}
    row["readers"] = ["conv1"]
    row |= {"clipped": None, "clipped_calibration": 0.25}
    kept = PlacedLayer(
        "up",
        "conv",
        "",
        "convolution",
        None,
        (),
        "3-d convolutions have no integer kernel in the runtimes",
    )
    quantized = PlacedLayer(
        "conv1", "conv", "", "conv2d", "quantizers.weight", ("quantizers.activation",)
    )
    write_layers(tmp_path / "layers.csv", [row], [quantized, kept])
    with (tmp_path / "layers.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [
        "layer",
        "role",
        "bits",
        "symmetric",
        "per_channel",
        "scale",
        "zero_point",
        "sqnr_db",
        "readers",
        "left_in_float",
        "clipped",
        "clipped_calibration",
        "saturated",
        "own_db",
        "alone_db",
        "accumulated_db",
    ]
    empty = dict.fromkeys(reader.fieldnames, "")
    assert rows == [
        {
            **empty,
            "layer": "conv1",
            "role": "weight",
            "bits": "4",
            "symmetric": "False",
            "per_channel": "True",
            "scale": "0.5 0.25",
            "zero_point": "7 8",
            "sqnr_db": "20.5",
            "readers": "conv1",
            "clipped_calibration": "0.25",
        },
        {
            **empty,
            "layer": "up",
            "left_in_float": "3-d convolutions have no integer kernel in the runtimes",
        },
    ]


def test_a_second_and_more_is_a_plain_number() -> None:
    slow = measured(1, 0.9, 1, size_bytes=1, deployed={"openvino": deployed(1234.5, 0, 0, 1.0)})
    assert "e+" not in cells(rendered(results(float=slow)))[1][7]


def test_brackets_in_a_name_stay() -> None:
    assert "net[new].py:build" in rendered(results(model="net[new].py:build"))[0]
