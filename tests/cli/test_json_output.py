"""`--json`: numbers that JSON does not have."""

from __future__ import annotations

import json

from minires.cli.json_output import print_json


def test_nan_and_infinity_become_null(capsys):
    nan, infinity = float("nan"), float("inf")
    print_json({"loss": nan, "rows": [{"lr": infinity}, (1.5, -infinity)], "name": "NaN", "n": 3})

    def no_constant(text):
        raise AssertionError(f"{text} is no JSON")

    printed = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert printed == {"loss": None, "rows": [{"lr": None}, [1.5, None]], "name": "NaN", "n": 3}
