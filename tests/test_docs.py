"""The documents agree with the code, and what CONTRIBUTING.md shows runs."""

import subprocess
import sys
from pathlib import Path

import pytest

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import registry
from coterie import spec as specs
from fenced_blocks import CHECKOUT, blocks, inline_commands, invoke, named_spec

DOCS = CHECKOUT / "docs"
REFERENCE = (DOCS / "spec.md").read_text()
REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]


def section(title, level):
    """The text below a heading, up to the next one of that level or above."""
    lines = REFERENCE.splitlines()
    start = lines.index(f"{'#' * level} {title}")
    heads = tuple(f"{'#' * depth} " for depth in range(1, level + 1))
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith(heads)), len(lines))
    return "\n".join(lines[start:end])


def test_the_reference_is_up_to_date():
    tool = CHECKOUT / "tools/spec_reference.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"run tools/spec_reference.py. {done.stderr}"


@pytest.mark.parametrize("name", specs.TABLES)
def test_the_reference_has_every_key(name):
    text = section(f"[{name}]", 3)
    assert all(f"| `{key}` |" in text for key in specs.TABLES[name].model_fields)


@pytest.mark.parametrize("known", REGISTRIES, ids=lambda known: known.kind)
def test_the_reference_has_every_component_with_its_settings(known):
    for component in known:
        name = component.name + (":PATH" if component.traits.get("takes_path") else "")
        text = section(name, 3)
        assert all(f"| `{key}` |" in text for key in component.options().model_fields), name


def test_the_samples_of_contributing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []
    for block in blocks(CHECKOUT / "CONTRIBUTING.md"):
        if block.language == "python":
            Path(block.file).write_text(block.text)
            written.append(block.file)
        for words in block.commands if block.language == "sh" else ():
            if words[0] == "python":
                command = [sys.executable, CHECKOUT / words[1], *words[2:]]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stdout + done.stderr
            else:
                invoke(words)
    assert written == ["nearest.py", "wine.py", "pairs.py"]


@pytest.mark.parametrize("path", sorted(DOCS.glob("threat-model-*.md")), ids=lambda path: path.name)
def test_commands_of_a_threat_model_name_specs_that_load(path, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    for words in inline_commands(path):
        specs.load(*named_spec(words))
