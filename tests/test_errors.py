from __future__ import annotations

from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError, unknown


def test_unknown_names_the_nearest() -> None:
    error = unknown("method", "QDrp", ["qdrop", "brecq", "adaround"])
    assert isinstance(error, SubbyteError)
    assert str(error) == (
        "unknown method 'QDrp': did you mean 'qdrop'? (known: adaround, brecq, qdrop)"
    )


def test_unknown_without_a_near_name() -> None:
    assert str(unknown("method", "xyz", ["qdrop"])) == "unknown method 'xyz' (known: qdrop)"


def test_a_long_table_is_cut() -> None:
    told = str(unknown("model", "m5x", [f"m{i}" for i in range(100)]))
    assert "did you mean 'm5'?" in told
    assert told.endswith("… 100 in all)")
    assert told.count("m") < 30


def test_the_fewest_edits_of_the_key_alone_decide() -> None:
    keys = [f"data.preprocessing.{key}" for key in Preprocessing.model_fields]
    told = str(unknown("key", "data.preprocessing.corp", keys))
    assert "did you mean 'data.preprocessing.crop'?" in told
    # One letter of six differs, and what stands before the key does not make others alike.
    assert "did you mean 'a.b.one'?" in str(unknown("key", "a.b.on", ["a.b.one", "a.b.two"]))
    known = ["executorch", "onnxruntime", "openvino", "qonnx", "tensorrt"]
    assert "did you mean 'onnxruntime'?" in str(unknown("runtime", "onnxrt", known))
    assert "did you mean" not in str(unknown("key", "a.b.xyz", ["a.b.one", "a.b.two"]))
