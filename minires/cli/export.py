"""`export`: the weights of a run, for torch.nn."""

from __future__ import annotations

from pathlib import Path

import click

from minires.cli.json_output import print_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Choice(["best", "last"]),
    show_default="best, else last",
    help="Which weights to write.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The safetensors file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(run: Path, checkpoint: str | None, output: Path, as_json: bool) -> None:
    """Write the weights of RUN as a safetensors file with PyTorch's names and shapes.

    RUN is a run folder or a checkpoint file. In PyTorch, a ResNet with torchvision's names takes
    the file: model.load_state_dict(safetensors.torch.load_file(FILE)).
    """
    from minires.training.transfer import export_run

    result = export_run(run, output, checkpoint)
    if as_json:
        print_json(result)
        return
    print(f"exported       {result['checkpoint']}")
    print(f"model          {result['model']}, {result['parameters']:,} parameters")
    print(f"normalisation  mean {_spell(result['mean'])}, std {_spell(result['std'])}")
    print(f"file           {result['output']}")


def _spell(numbers: list[float]) -> str:
    return ",".join(f"{number:.6g}" for number in numbers)
