"""Packs what LoRA trained as a starter's small part: ``python -m pipeline.learn.pack_starter``."""

import json
import shutil
from pathlib import Path

import click

from pipeline.starter.fetch import sha256_of
from pipeline.starter.low_rank import DOWN, UP

BEFORE = "base_model.model."


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("into", type=click.Path(file_okay=False, path_type=Path))
def main(model: Path, into: Path) -> None:
    """Write INTO/trained.safetensors, in 16 bits, and the card of a MODEL that `train` made."""
    from safetensors.numpy import load_file, save_file

    adapter = model / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / config["r"]
    part = {}
    for key, value in load_file(adapter / "adapter_model.safetensors").items():
        name = key.removeprefix(BEFORE)
        if name.endswith(".lora_A.weight"):
            part[name.removesuffix(".lora_A.weight") + DOWN] = value.astype("float16")
        elif name.endswith(".lora_B.weight"):
            part[name.removesuffix(".lora_B.weight") + UP] = (scale * value).astype("float16")
        else:
            part[name] = value.astype("float16")
    into.mkdir(parents=True, exist_ok=True)
    save_file(part, into / "trained.safetensors")
    shutil.copyfile(model / "README.md", into / "README.md")
    click.echo(f"{into / 'trained.safetensors'}: sha256 {sha256_of(into / 'trained.safetensors')}")


if __name__ == "__main__":
    main()
